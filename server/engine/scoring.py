"""Texts that are scored in turns, one pass of the network between two denoising steps."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from models.checkpoints.load import Checkpoint
from sampler.likelihood.monte_carlo import sample_nats, standard_error
from sampler.noise_kernel import NoiseKernel
from server.engine.events import Failed
from server.engine.score_request import Score, ScoreRequest
from server.engine.turns import Task, TaskFailed


@dataclass
class ScoreTask(Task[Score]):
    """A text being scored."""

    message: ClassVar = "the text could not be scored"
    counter: ClassVar = "scores"

    request: ScoreRequest
    future: asyncio.Future[Score]
    left: int = field(init=False)
    sums: Tensor | float = 0.0  # over the samples so far, [scored]
    totals: list[float] = field(default_factory=list)  # of each sample so far

    def __post_init__(self) -> None:
        self.left = self.request.work

    def advance(self, checkpoint: Checkpoint, positions: int) -> Score | TaskFailed | None:
        """See ``Task``."""
        request, device = self.request, checkpoint.device
        info, params = checkpoint.info, request.params
        at_once = max(1, positions // len(request.tokens))
        first = len(self.totals)
        after = min(first + at_once, params.samples)
        nats = sample_nats(
            checkpoint.model,
            torch.tensor(request.tokens, device=device),
            torch.tensor(request.scored, device=device),
            torch.arange(first, after, device=device),
            NoiseKernel(params.mixing_ratio, info.vocab_size, info.mask_id),
            params,
        )
        self.left -= (after - first) * len(request.tokens)
        self.sums = self.sums + nats.sum(0)
        self.totals.extend(nats.sum(-1).tolist())
        return _outcome(self) if len(self.totals) >= params.samples else None


def _outcome(task: ScoreTask) -> Score | TaskFailed:
    """The score over all samples."""
    totals = torch.tensor(task.totals, dtype=torch.float64)
    if not totals.isfinite().all():
        return TaskFailed(Failed("not_finite", "the model gave no finite numbers"))
    error = standard_error(totals)
    nats = torch.as_tensor(task.sums) / len(totals)
    return Score(nats.tolist(), None if math.isnan(error) else error)
