"""The engine: one thread owns the model and advances all running requests by one step at a time.

Requests join and leave between any two steps (continuous batching). The thread hands each step's
results to the event loop in one call; they are divided among the subscribers there, so that the
step itself does not loop over requests.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from models.checkpoints.load import Checkpoint
from sampler.graphs import StepGraphs
from server.engine.batches import Batches, Notification
from server.engine.caching import Caching
from server.engine.delivery import Delivery
from server.engine.events import Failed, GenerationRequest, Tally
from server.engine.marginals import MarginalRequest, Marginals, MarginalTask
from server.engine.metrics import Metrics
from server.engine.scheduler import Change, QueueFull, Scheduler
from server.engine.score_request import Score, ScoreRequest
from server.engine.scoring import ScoreTask
from server.engine.step_timer import PositionLimit, StepTimer
from server.engine.stream import Subscription
from server.engine.turns import Task, TaskFailed, Turns
from server.engine.watchdog import Watchdog

log = structlog.get_logger()

Result = TypeVar("Result")

STOP_SECONDS = 5.0  # wait for a step in progress when the engine stops

SHUTTING_DOWN = Failed("shutting_down", "the server is shutting down")
HUNG = Failed("engine_hung", "a denoising step does not come back")
BROKEN = Failed("internal", "the engine failed")
NO_RANK = Failed("internal", "the request could not be scheduled")
QUEUE_TIMEOUT = Failed("queue_timeout", "the request waited too long in the queue")
DEADLINE = Failed("deadline", "the request took too long")


@dataclass(frozen=True)
class Deadlines:
    """Limits in seconds from submission; infinite where there is none.

    Attributes:
        queued: until the first step.
        whole: until the end.
    """

    queued: float = math.inf
    whole: float = math.inf


class Engine:
    """Runs the requests of one checkpoint.

    ``start`` and ``submit`` are called on the event loop that reads the events.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        scheduler: Scheduler[Subscription],
        scorer: Turns,
        metrics: Metrics,
        watchdog: Watchdog,
        deadlines: Deadlines,
        limit: PositionLimit,
        caching: Caching,
        graphs: StepGraphs | None = None,
    ):
        """The thread runs only after ``start``. ``limit``: of the positions in a step; ``graphs``:
        see ``Batches``.
        """
        self.caching = caching
        self.checkpoint = checkpoint
        self.scheduler = scheduler
        self.scorer = scorer
        self.metrics = metrics
        self.watchdog = watchdog
        self._deadlines = deadlines
        self._limit = limit
        self._batches = Batches(checkpoint, caching, scheduler.slots, graphs)
        self._timer = StepTimer()
        self._delivery = Delivery(metrics)
        self._cancelled: set[Subscription] = set()
        self._finishing: set[Subscription] = set()
        self._wake = threading.Condition()
        self._draining = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="xdlm-engine", daemon=True)
        watchdog.on_hang = self._fail_hung
        metrics.watch(
            lambda: self.scheduler.running,
            lambda: self.scheduler.waiting,
            lambda: self.scheduler.slots.used,
        )

    def start(self) -> None:
        """Start the engine's thread; events go to the running event loop."""
        self._delivery.open()
        self._thread.start()

    def drain(self) -> None:
        """Refuse new requests; running and queued ones go on."""
        self._draining = True

    def stop(self) -> None:
        """End the thread after the step in progress; fail the requests that are left."""
        self.watchdog.stop()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.error("the step in progress does not end; its thread is abandoned")
            self._fail_all(SHUTTING_DOWN)

    @property
    def unready(self) -> str | None:
        """Why requests are refused; None while they are accepted."""
        if self._draining or self._stopping:
            return "shutting down"
        if not self._thread.is_alive():
            return "not started"
        return "a denoising step does not come back" if self.watchdog.hung else None

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.unready is None

    @property
    def idle(self) -> bool:
        """Whether there are no requests and no scores left."""
        with self._wake:
            return not (self.scheduler.running or self.scheduler.waiting or self.scorer.waiting)

    @property
    def backlog(self) -> int:
        """Work left of all requests and scores, in positions × steps."""
        with self._wake:
            return self.scheduler.backlog + self.scorer.backlog

    @property
    def backlog_seconds(self) -> float:
        """Estimated seconds of the backlog, by the moving average of the time per position."""
        return self._timer.seconds(self.backlog)

    def retry_after(self) -> int:
        """Value of ``Retry-After`` for a refused request, in whole seconds."""
        return self._timer.retry_after(self.backlog)

    def submit(self, request: GenerationRequest) -> Subscription:
        """Queue a request.

        Raises:
            QueueFull: there is no room; nothing was queued.
        """
        return self.submit_all([request])[0]

    def submit_all(
        self,
        requests: Sequence[GenerationRequest],
        on_done: Callable[[Tally], None] | None = None,
    ) -> list[Subscription]:
        """Queue all of several requests, or none of them. ``on_done`` is called with the tally of
        each request that succeeds, when its end is read.

        Raises:
            QueueFull: there is no room; nothing was queued.
        """
        now = time.monotonic()
        subscriptions = [Subscription(r, self.cancel, self.finish, now, on_done) for r in requests]
        works = [self.caching.work(r) for r in requests]
        with self._wake:
            if not self.ready:
                raise QueueFull
            self.scheduler.submit_all(list(zip(subscriptions, works, strict=True)), now)
            self._wake.notify()
        return subscriptions

    def score(self, request: ScoreRequest) -> asyncio.Future[Score]:
        """Queue a text to be scored; see ``_take_turns``."""
        return self._take_turns(ScoreTask(request, self._delivery.promise()))

    def read(self, request: MarginalRequest) -> asyncio.Future[Marginals]:
        """Queue canvases whose marginals are read; see ``_take_turns``."""
        return self._take_turns(MarginalTask(request, self._delivery.promise()))

    def _take_turns(self, task: Task[Result]) -> asyncio.Future[Result]:
        """Queue a task. Cancelling the future stops the work; it fails with ``TaskFailed``.

        Raises:
            QueueFull: there is no room; nothing was queued.
        """
        with self._wake:
            if not self.ready or not self.scorer.has_room(task.left):
                raise QueueFull
            self.scorer.add(task)
            self._wake.notify()
        return task.future

    def cancel(self, subscription: Subscription, code: str = "cancelled") -> None:
        """Remove a request: at once if it waits, before the next step if it runs. ``code`` is that
        of its failure in the metrics.
        """
        with self._wake:
            known = self.scheduler.remove(subscription)
            self._cancelled.add(subscription)
            self._wake.notify()
        if known:
            self.metrics.failed(code)

    def finish(self, subscription: Subscription) -> None:
        """End a running request before the next step, with its canvas as it stands."""
        with self._wake:
            self._finishing.add(subscription)

    # The engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._iterate()
            except Exception:
                log.exception("the engine failed")
                self._batches.clear()
                self._fail_all(BROKEN)
                self.watchdog.ended()
                self.watchdog.incident("the engine failed")
        self._batches.clear()
        self._fail_all(SHUTTING_DOWN)

    def _iterate(self) -> None:
        """Admit, preempt and end requests, take one step and one scoring pass."""
        with self._wake:
            while self.idle and not self._stopping:
                self._batches.drop(self._cancelled)
                self._cancelled.clear()
                self._finishing.clear()
                self._wake.wait()
            if self._stopping:
                return
            cancelled, self._cancelled = self._cancelled, set()
            finishing, self._finishing = self._finishing, set()
            now, limits = time.monotonic(), self._deadlines
            late, overdue = self.scheduler.expire(now - limits.queued, now - limits.whole)
            self.scheduler.max_positions = self._limit.at(self._timer.position)
            change = self.scheduler.begin_step()
            positions = self.scheduler.positions
        removed = {QUEUE_TIMEOUT: late, DEADLINE: overdue, NO_RANK: change.broken}
        self._delivery.end([(s, failed) for failed, some in removed.items() for s in some])
        self.watchdog.began()
        self._batches.drop(cancelled.union(*removed.values()))
        self._end(self._batches.finish(finishing, now))
        self._batches.pause(change.pause)
        self._batches.resume(change.resume)
        self._begin(change, now)
        if self._batches:
            self._step(positions)
        if over := self.scorer.advance():
            self._delivery.finished(*over)
        self.watchdog.ended()

    def _begin(self, change: Change[Subscription], now: float) -> None:
        for subscription, start in zip(change.begin, change.starts, strict=True):
            subscription.admitted, subscription.cache_start = now, start
            self.metrics.queued(now - subscription.submitted)
        first = self._batches.begin(change.begin)
        self._end([(o, event) for o, event in first if isinstance(event, Failed)])
        self._delivery.send([(o, event) for o, event in first if not isinstance(event, Failed)])

    def _step(self, positions: int) -> None:
        began = time.monotonic()
        stepped = self._batches.step(began, self._timer.step)
        for record in stepped.records:
            self._delivery.call(record.deliver)
        seconds = time.monotonic() - began
        self._timer.record(seconds, stepped.run or positions)
        self.metrics.stepped(
            seconds=seconds,
            requests=stepped.requests,
            positions=stepped.positions,
            head_rows=stepped.head_rows,
            skipped=stepped.skipped,
            run=stepped.run,
            kept=stepped.kept,
            reused=stepped.reused,
            replayed=stepped.replayed,
        )
        self._end(stepped.ended)

    # Any thread ----------------------------------------------------------------------------------

    def _fail_hung(self) -> None:
        """Fail all requests, because a step hangs."""
        self._fail_all(HUNG)

    def _fail_all(self, failed: Failed) -> None:
        with self._wake:
            left, unscored = self.scheduler.drain(), self.scorer.drain()
            self._cancelled.update(left)
        self._delivery.end([(s, failed) for s in left])
        for task in unscored:
            self._delivery.finished(task, TaskFailed(failed))

    def _end(self, ended: Sequence[Notification]) -> None:
        """Deliver the last events of requests that have not ended yet."""
        with self._wake:
            known = [(owner, event) for owner, event in ended if self.scheduler.remove(owner)]
        self._delivery.end(known)
