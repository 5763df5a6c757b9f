"""Time of a step with constrained texts against the same step without, and of compiling a schema.

    python -m benchmarks.structured --save structured.jsonl

Sides run in turn in one process; medians of ``--steps`` steps, quartiles of the ratios of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

from benchmarks.isolated import Record, save
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.constraints.region import Region
from sampler.interface import Sampler
from sampler.step import take_step
from server.constraints import spec
from server.constraints.compiler import Constraints

TEN: dict[str, Any] = {
    **{name: {"type": "string"} for name in ("name", "city", "colour", "note")},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "weight": {"type": "number"},
    "likes": {"enum": ["cats", "dogs", "the park"]},
    "happy": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    "born": {"type": "string", "format": "date"},
}


def schema(number: int) -> dict[str, Any]:
    """One of many schemas of ten fields; they differ in a field's values."""
    own = {**TEN, "likes": {"enum": ["cats", f"number {number}"]}}
    return {"type": "object", "properties": own, "required": ["name"]}


def seconds_of_step(sampler: Sampler, checkpoint: Checkpoint, batch: CanvasBatch) -> float:
    """Seconds of the first step of a batch, in which all positions are open."""
    began = time.perf_counter()
    take_step(sampler, checkpoint.model, batch)
    return time.perf_counter() - began


def main() -> None:
    """Print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="stories")
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=41)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    keep_freed_memory()  # as the server does
    checkpoint = load_checkpoint(find_checkpoint(args.checkpoint), "cpu", "float32", None)
    constraints = Constraints()
    records: list[Record] = []
    constraints.compiled(spec.regex("a"), checkpoint).result()  # starts the process
    times = []
    automaton = constraints.compiled(spec.json_schema(schema(args.steps)), checkpoint).result()
    for n in range(args.steps):
        began = time.perf_counter()
        automaton = constraints.compiled(spec.json_schema(schema(n)), checkpoint).result()
        times.append(1e3 * (time.perf_counter() - began))
    records.append({"what": "compile", "ms": statistics.median(times), "states": automaton.states})
    records[-1] |= {"classes": automaton.classes, "transitions": len(automaton.source)}
    info = checkpoint.info
    sampler = SAMPLERS["topk"].make(info.vocab_size, info.mask_id, checkpoint.ends)
    prompt = checkpoint.tokenizer.encode("Tom had a dog.")
    size = args.positions
    tokens = [*prompt, *[0] * size]
    editable = [*[False] * len(prompt), *[True] * size]
    for requests, temperature in ((1, 1.0), (1, 0.7), (1, 0.3), (1, 0.0), (8, 1.0), (32, 1.0)):
        regions = [
            Region.of(
                constraints.compiled(spec.json_schema(schema(n)), checkpoint).result(),
                tokens,
                editable,
            )
            for n in range(requests)
        ]
        params = [
            make_params("topk", steps=8, temperature=temperature, seed=n) for n in range(requests)
        ]
        canvases = [(tokens, editable, p) for p in params]
        free = sampler.begin(CanvasBatch.of(canvases))
        bound = sampler.begin(CanvasBatch.of(canvases, regions=regions))
        pairs = [
            [seconds_of_step(sampler, checkpoint, batch) for batch in (free, bound)]
            for _ in range(args.steps + 1)
        ][1:]
        ratios = [b / a for a, b in pairs]
        free_ms, bound_ms = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
        records.append(
            {
                **{"what": "step", "requests": requests, "positions": size},
                **{"temperature": temperature, "free_ms": free_ms, "constrained_ms": bound_ms},
                "ratio": statistics.median(ratios),
                "quartiles": statistics.quantiles(ratios, n=4)[::2],
                "load": os.getloadavg()[0],
            }
        )
    for record in records:
        print(json.dumps(record))
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
