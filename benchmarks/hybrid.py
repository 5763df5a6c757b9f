"""The hybrid sampler against LLaDA's loop in plain PyTorch: CPU time and peak memory.

Seeded random weights of a LLaDA shape; the same canvas, steps and one thread for both.

    python -m benchmarks.hybrid          # vocabulary 50 258, temperature 0 and 1, k = 0 and 0.1
"""

from __future__ import annotations

import argparse
import json

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
from benchmarks.reference import llada_loop
from models.families.llada import LLaDA
from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.samplers.topk import TopK
from sampler.step import take_step


def ours(model: LLaDA, vocab_size: int, temperature: float, k: float, block: int) -> Record:
    """Run our sampler; returns what it computed."""
    sampler = TopK(vocab_size, vocab_size - 1)
    params = make_params(
        steps=STEPS, sampler="topk", mixing_ratio=k, temperature=temperature, block_length=block
    )
    batch = sampler.begin(CanvasBatch.of([([0] * LENGTH, [True] * LENGTH, params)] * BATCH))
    rows = forwards = 0
    for _ in range(STEPS):
        result = take_step(sampler, model, batch)
        batch = result.batch
        rows += result.head_rows
        forwards += int(result.forwards.sum())
    return {"head_rows_per_position": rows / (BATCH * LENGTH), "forwards": forwards}


def reference(model: LLaDA, vocab_size: int, temperature: float, k: float, block: int) -> Record:
    """Run the published loop, restated."""
    llada_loop(
        logits_of(model),
        batch=BATCH,
        length=LENGTH,
        block=block,
        steps=STEPS,
        mask_id=vocab_size - 1,
        mixing_ratio=k,
        temperature=temperature,
        seed=0,
    )
    return {"head_rows_per_position": STEPS, "forwards": BATCH * STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SETTING"))
    parser.add_argument("--vocab", type=int, nargs="+", default=[50_258])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--mixing-ratio", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--block", type=int, nargs="+", default=[LENGTH])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        side, setting = args.one
        run, choices = ours if side == "ours" else reference, json.loads(setting)
        model = random_model(choices[0])
        measure_here(side, setting, lambda: run(model, *choices))
        return
    settings = [
        json.dumps([v, t, k, b])
        for v in args.vocab
        for t in args.temperature
        for k in args.mixing_ratio
        for b in args.block
    ]
    records = compare("benchmarks.hybrid", settings, args.repeats)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
