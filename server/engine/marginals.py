"""Requests to read a network's marginals at masked positions, and their work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from models.checkpoints.load import Checkpoint
from sampler.likelihood.marginals import log_marginals
from sampler.noise_kernel import NoiseKernel
from server.engine.events import Failed
from server.engine.turns import Task, TaskFailed


@dataclass(frozen=True)
class MarginalRequest:
    """Canvases whose marginals are read.

    Attributes:
        canvases: ids of each.
        rows: masked positions of each that are read.
        candidates: ids whose log-probabilities are returned.
    """

    canvases: Sequence[list[int]]
    rows: Sequence[list[int]]
    candidates: list[int]

    @property
    def work(self) -> int:
        """Positions."""
        return sum(map(len, self.canvases))


Marginals = list[list[list[float]]]
"""Log-probabilities by canvas, row and candidate."""


@dataclass
class MarginalTask(Task[Marginals]):
    """Canvases that are being read, as many in one pass of the network as its positions allow."""

    message: ClassVar = "the questions could not be decided"
    counter: ClassVar = "decisions"

    request: MarginalRequest
    future: asyncio.Future[Marginals]
    left: int = field(init=False)
    found: Marginals = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = self.request.work

    def advance(self, checkpoint: Checkpoint, positions: int) -> Marginals | TaskFailed | None:
        """See ``Task``."""
        request, info, device = self.request, checkpoint.info, checkpoint.device
        first = after = len(self.found)
        tokens: list[int] = []
        offsets, rows = [0], []
        while after < len(request.canvases):
            canvas = request.canvases[after]
            if tokens and len(tokens) + len(canvas) > positions:
                break
            rows += [len(tokens) + row for row in request.rows[after]]
            tokens += canvas
            offsets.append(len(tokens))
            after += 1
        log_p = log_marginals(
            checkpoint.model,
            torch.tensor(tokens, device=device),
            torch.tensor(offsets, device=device),
            torch.tensor(rows, device=device),
            torch.tensor(request.candidates, device=device),
            NoiseKernel(0.0, info.vocab_size, info.mask_id),
        )
        if log_p.isnan().any() or (log_p == torch.inf).any():
            return TaskFailed(Failed("not_finite", "the model gave no finite numbers"))
        for read in log_p.split([len(r) for r in request.rows[first:after]]):
            self.found.append(read.tolist())
        self.left -= len(tokens)
        return self.found if after == len(request.canvases) else None
