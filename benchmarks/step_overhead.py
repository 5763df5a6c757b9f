"""Cost of a denoising step in Python, by the number of requests in it.

The same 1 024 positions as one canvas and as 64 canvases of 16. The network looks at each position
alone, so that the arithmetic is the same to the last operation and the difference is what each
request adds; the layout that attention would need is worked out all the same. CPU time of one
thread, medians.

    python -m benchmarks.step_overhead
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from models.attention import BucketedAttention
from models.checkpoints.malloc import keep_freed_memory
from sampler import READERS, SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step

VOCAB, POSITIONS, WIDTH = 256, 1024, 32


class PositionWise:
    """Logits of a position depend on its own token only."""

    classes = 0

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(VOCAB, WIDTH, generator=g)

    def trunk(
        self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """See ``sampler.step.Denoiser``."""
        BucketedAttention(offsets, tokens.numel())
        return self.embedding[tokens[rows]]

    def head(self, hidden: Tensor) -> Tensor:
        """See ``sampler.step.Denoiser``."""
        return hidden @ self.embedding.T


def seconds_per_step(name: str, requests: int, steps: int) -> float:
    """Median CPU seconds of a sampler's step with the given number of requests."""
    network, sampler = PositionWise(), SAMPLERS[name].make(VOCAB, VOCAB - 1, (0,))
    length = POSITIONS // requests
    own = {"confidence_threshold": 1.0} if name in READERS["confidence_threshold"] else {}
    params = make_params(steps=steps, sampler=name, top_p=0.9, **own)
    canvases = [([0] * length, [True] * length, params.changed(seed=i)) for i in range(requests)]
    batch = sampler.begin(CanvasBatch.of(canvases))
    spent = []
    for _ in range(steps):
        began = time.thread_time()
        batch = take_step(sampler, network, batch).batch
        spent.append(time.thread_time() - began)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the server does
    for name in SAMPLERS:
        found: dict[int, list[float]] = {1: [], 64: []}
        for _ in range(args.repeats):
            for requests, times in found.items():
                times.append(seconds_per_step(name, requests, args.steps))
        one, many = (1e3 * statistics.median(times) for times in found.values())
        print(
            f"{name}: 1 request {one:.2f} ms, 64 requests {many:.2f} ms a step: {many / one:.2f}x"
        )


if __name__ == "__main__":
    main()
