"""Rows of logits read by the sampler's kernel, and by operations of PyTorch."""

from __future__ import annotations

import torch

from benchmarks.device.measures import seconds
from benchmarks.device.networks import Bench
from fusion.choice import operations_of_pytorch
from sampler.logits.row_reader import row_stats
from sampler.logits.row_requests import ALL, Chunk, RowQuery, Some
from sampler.logits.row_stats import RowStats


def reading(bench: Bench) -> None:
    """Rows of LLaDA's vocabulary in bf16, as the topk sampler asks at a temperature: the ids are
    the same but for draws at an edge, and each way is timed.
    """
    vocab = 500 if bench.small else 126464
    for rows in (16,) if bench.small else (64, 256, 1024):
        logits = 3 * torch.randn(rows, vocab, device=bench.device)
        logits, chunk = logits.to(torch.bfloat16), _questions(rows, vocab, bench.device)

        def read(logits: torch.Tensor = logits, chunk: Chunk = chunk) -> RowStats:
            return row_stats(logits, chunk, vocab - 1)

        case = f"{rows} rows of {vocab}"
        with operations_of_pytorch():
            expected = read()
            theirs = [seconds(read, bench.device) for _ in range(bench.runs(8))]
        found = read()
        same = float((found.sample == expected.sample).double().mean())
        bench.report.verify(case, "fused", same >= 0.98, f"{same:.2%} of the ids are the same")
        ours = [seconds(read, bench.device) for _ in range(bench.runs(8))]
        bench.report.add(case, "eager", seconds=theirs)
        bench.report.add(case, "fused", seconds=ours)


def _questions(rows: int, vocab: int, device: str) -> Chunk:
    query = RowQuery(
        current=torch.full((rows,), vocab - 1, device=device),
        u=torch.rand(rows, device=device, dtype=torch.float64),
        temperature=torch.full((rows,), 0.8, device=device, dtype=torch.float64),
        as_model=torch.ones(rows, device=device, dtype=torch.bool),
    )
    asks: dict[str, Some] = dict.fromkeys(("drawn", "tempered", "model", "reheated"), ALL)
    return Chunk(slice(0, rows), query, asks, slice(0, 0), may_ask=False)
