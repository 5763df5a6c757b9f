"""Scores texts in turns, one pass of the network between two denoising steps."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from dataclasses import dataclass, field

import structlog
import torch
from torch import Tensor

from models.checkpoints.load import Checkpoint
from sampler.likelihood.monte_carlo import sample_nats, standard_error
from sampler.noise_kernel import NoiseKernel
from server.engine.events import Failed
from server.engine.isolation import failure_of
from server.engine.score_request import Score, ScoreRequest

log = structlog.get_logger()


class ScoreFailed(Exception):
    """Scoring failed; ``failed`` holds the code and the message."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


ScoreOutcome = Score | ScoreFailed


@dataclass
class ScoreTask:
    """A text being scored. Cancelling ``future`` stops the work."""

    request: ScoreRequest
    future: asyncio.Future[Score]
    left: int = field(init=False)  # positions times samples to go
    sums: Tensor | float = 0.0  # over the samples so far, [scored]
    totals: list[float] = field(default_factory=list)  # of each sample so far

    def __post_init__(self) -> None:
        self.left = self.request.work

    def settle(self, outcome: ScoreOutcome) -> None:
        """Resolve the future; runs on the event loop."""
        if self.future.done():
            return
        if isinstance(outcome, Score):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class LikelihoodScorer:
    """Takes texts from the event loop and scores them on the engine's thread. The list of texts
    is read and changed under a lock, since the watchdog's thread may empty it at any time.
    """

    def __init__(
        self, checkpoint: Checkpoint, max_waiting: int, positions: int, max_backlog: int
    ) -> None:
        """Limits: texts under way, canvas positions in one pass of the network, and positions ×
        samples under way.
        """
        self._checkpoint = checkpoint
        self._max_waiting, self._positions = max_waiting, positions
        self._max_backlog = max_backlog
        self._turns: deque[ScoreTask] = deque()
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Texts under way."""
        return len(self._turns)

    @property
    def backlog(self) -> int:
        """Positions × samples to go."""
        with self._lock:
            return sum(task.left for task in self._turns)

    def has_room(self, request: ScoreRequest) -> bool:
        """Whether there is room for one more. Work that is too much is taken where there is no
        other.
        """
        with self._lock:
            if len(self._turns) >= self._max_waiting:
                return False
            return not self._turns or self.backlog + request.work <= self._max_backlog

    def add(self, task: ScoreTask) -> None:
        """Add a text to the queue."""
        with self._lock:
            self._turns.append(task)

    def drain(self) -> list[ScoreTask]:
        """Remove and return all texts."""
        with self._lock:
            left = list(self._turns)
            self._turns.clear()
            return left

    def advance(self) -> tuple[ScoreTask, ScoreOutcome] | None:
        """One pass for the text whose turn it is; returns its outcome if that was the last."""
        with self._lock:
            while self._turns and self._turns[0].future.cancelled():
                self._turns.popleft()
            if not self._turns:
                return None
            task = self._turns[0]
        outcome: ScoreOutcome | None = None
        try:
            self._pass(task)
            if len(task.totals) >= task.request.params.samples:
                outcome = _outcome(task)
        except Exception as error:
            log.exception("scoring failed")
            code = failure_of(error).code
            outcome = ScoreFailed(Failed(code, "the text could not be scored"))
        with self._lock:
            if not self._turns or self._turns[0] is not task:
                return None  # given up meanwhile
            if outcome is None:
                self._turns.rotate(-1)
                return None
            self._turns.popleft()
            return task, outcome

    def _pass(self, task: ScoreTask) -> None:
        request, device = task.request, self._checkpoint.device
        info, params = self._checkpoint.info, request.params
        at_once = max(1, self._positions // len(request.tokens))
        first = len(task.totals)
        after = min(first + at_once, params.samples)
        nats = sample_nats(
            self._checkpoint.model,
            torch.tensor(request.tokens, device=device),
            torch.tensor(request.scored, device=device),
            torch.arange(first, after, device=device),
            NoiseKernel(params.mixing_ratio, info.vocab_size, info.mask_id),
            params,
        )
        task.left -= (after - first) * len(request.tokens)
        task.sums = task.sums + nats.sum(0)
        task.totals.extend(nats.sum(-1).tolist())


def _outcome(task: ScoreTask) -> ScoreOutcome:
    """The score over all samples."""
    totals = torch.tensor(task.totals, dtype=torch.float64)
    if not totals.isfinite().all():
        return ScoreFailed(Failed("not_finite", "the model gave no finite numbers"))
    error = standard_error(totals)
    nats = torch.as_tensor(task.sums) / len(totals)
    return Score(nats.tolist(), None if math.isnan(error) else error)
