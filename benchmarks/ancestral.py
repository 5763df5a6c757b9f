"""Branch-first ancestral sampling against the explicit posterior: CPU time and peak memory.

Seeded random weights of a LLaDA shape; the same canvas, steps and one thread for both.

    python -m benchmarks.ancestral                        # vocabulary 50 258 and 4 096
    python -m benchmarks.ancestral --bundled              # 32 steps of 128 tokens, alone, all cores
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch

from benchmarks.isolated import (
    BATCH,
    LENGTH,
    STEPS,
    Record,
    compare,
    logits_of,
    measure_here,
    random_model,
    save,
)
from benchmarks.reference import explicit_posterior_loop
from models.checkpoints.load import find_checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from models.families.llada import LLaDA
from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.samplers.ancestral import Ancestral
from sampler.step import take_step
from server.engine.request_params import sampling_params

MIXING_RATIO = 0.1


def ours(model: LLaDA, vocab_size: int) -> Record:
    """Run our sampler; returns what it computed."""
    sampler = Ancestral(vocab_size, vocab_size - 1)
    canvases = [
        ([0] * LENGTH, [True] * LENGTH, make_params(steps=STEPS, seed=i)) for i in range(BATCH)
    ]
    batch = sampler.begin(CanvasBatch.of(canvases))
    rows = forwards = 0
    for _ in range(STEPS + 1):
        result = take_step(sampler, model, batch)
        batch = result.batch
        rows += result.head_rows
        forwards += int(result.forwards.sum())
    return {"head_rows_per_position": rows / (BATCH * LENGTH), "forwards": forwards}


def reference(model: LLaDA, vocab_size: int) -> Record:
    """Run the explicit-posterior loop."""
    explicit_posterior_loop(
        logits_of(model),
        batch=BATCH,
        length=LENGTH,
        steps=STEPS,
        vocab_size=vocab_size,
        mask_id=vocab_size - 1,
        mixing_ratio=MIXING_RATIO,
        seed=0,
    )
    return {"head_rows_per_position": STEPS + 1, "forwards": BATCH * (STEPS + 1)}


def bundled(repeats: int) -> list[Record]:
    """32 steps of 128 tokens of the bundled checkpoint, alone, with its own defaults."""
    keep_freed_memory()  # as the server does
    loaded = load_checkpoint(find_checkpoint("stories"))
    sampler = Ancestral(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    prompt = loaded.tokenizer.encode("Once upon a time")
    records = []
    for i in range(repeats + 3):
        params = sampling_params(loaded.defaults, {"steps": 32, "seed": i})
        canvas = (prompt + [0] * 128, [False] * len(prompt) + [True] * 128, params)
        began = time.perf_counter()
        batch = sampler.begin(CanvasBatch.of([canvas]))
        for _ in range(params.calls):
            batch = take_step(sampler, loaded.model, batch).batch
        if i >= 3:  # warm
            records.append({"bundled_s": time.perf_counter() - began, "load": os.getloadavg()[0]})
    cuts = statistics.quantiles([r["bundled_s"] for r in records], n=4)
    threads = torch.get_num_threads()
    print(f"median {cuts[1]:.3f} s (quartiles {cuts[0]:.3f}, {cuts[2]:.3f}), {threads} threads")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "VOCABULARY"))
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--vocab", nargs="+", default=["50258", "4096"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        side, setting = args.one
        run, vocab_size = ours if side == "ours" else reference, int(setting)
        model = random_model(vocab_size)
        measure_here(side, setting, lambda: run(model, vocab_size))
        return
    if args.bundled:
        records = bundled(args.repeats)
    else:
        records = compare("benchmarks.ancestral", args.vocab, args.repeats)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
