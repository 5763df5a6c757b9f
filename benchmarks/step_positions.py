"""Cost of a step by the number of positions in it, on a CPU.

CPU time of one step of the bundled checkpoint on one thread, the least of some runs, with more and
more canvases of one length. The default of ``max_positions`` and the constants of
``benchmarks/fairness.py`` come from here.

    python -m benchmarks.step_positions --save step_positions.jsonl                   # a minute
"""

from __future__ import annotations

import argparse
import os
import time

import torch

from benchmarks.isolated import Record, save
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.request_params import sampling_params

LENGTHS, MOST = (64, 128), 4096  # positions of a canvas, and of a step
STEPS, TIMED, REPEATS = 16, 8, 3


def step_seconds(loaded: Checkpoint, length: int, canvases: int) -> float:
    """CPU seconds of a step in the first half of a run, without the first step."""
    sampler = SAMPLERS["ancestral"].make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    params = [
        sampling_params(loaded.defaults, {"steps": STEPS, "seed": seed}) for seed in range(canvases)
    ]
    batch = sampler.begin(CanvasBatch.of([([0] * length, [True] * length, p) for p in params]))
    batch = take_step(sampler, loaded.model, batch).batch
    began = time.process_time()
    for _ in range(TIMED):
        batch = take_step(sampler, loaded.model, batch).batch
    return (time.process_time() - began) / TIMED


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a step by its positions.")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    loaded = load_checkpoint(find_checkpoint("stories"))
    records: list[Record] = []
    for length in LENGTHS:
        canvases = 1
        while canvases * length <= MOST:
            seconds = min(step_seconds(loaded, length, canvases) for _ in range(REPEATS))
            positions = canvases * length
            print(
                f"{canvases:3} canvases of {length}: {1e3 * seconds:6.1f} ms a step, "
                f"{1e6 * seconds / positions:4.0f} us a position",
                flush=True,
            )
            record = {"canvases": canvases, "positions": positions, "step_s": seconds}
            records.append({**record, "load": os.getloadavg()[0]})
            canvases *= 2
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
