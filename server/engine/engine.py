"""The engine: one thread owns the model and walks all running requests a step at a time.

Requests join and leave between any two steps. The thread hands each step's outcome to the event
loop in one call; there it is divided among the subscribers, so the step itself never loops over
requests.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from models.checkpoints.load import Checkpoint
from server.engine.batches import Running, Told
from server.engine.delivery import Outbox
from server.engine.events import Failed, GenerationRequest, Tally
from server.engine.metrics import Metrics
from server.engine.scheduler import QueueFull, Scheduler
from server.engine.score import Score, ScoreRequest
from server.engine.scoring import ScoreFailed, Scorer, Scoring
from server.engine.step_timer import Pace
from server.engine.stream import Subscription
from server.engine.watchdog import Watchdog

log = structlog.get_logger()

STOP_SECONDS = 5.0  # that a step in progress is waited for

SHUTTING_DOWN = Failed("shutting_down", "the server is shutting down")
HUNG = Failed("engine_hung", "a denoising step does not come back")
BROKEN = Failed("internal", "the engine failed")
QUEUE_TIMEOUT = Failed("queue_timeout", "the request waited too long for its turn")
DEADLINE = Failed("deadline", "the request took too long")


@dataclass(frozen=True)
class Deadlines:
    """Seconds from submission; infinite where there is no limit.

    Attributes:
        queued: until a request must have begun.
        whole: until it must have ended.
    """

    queued: float = math.inf
    whole: float = math.inf


class Engine:
    """Runs one checkpoint.

    ``start`` and ``submit`` are called on the event loop that reads the events.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        scheduler: Scheduler[Subscription],
        scorer: Scorer,
        metrics: Metrics,
        watchdog: Watchdog,
        deadlines: Deadlines,
    ):
        """Nothing runs before ``start``."""
        self.checkpoint = checkpoint
        self.scheduler = scheduler
        self.scorer = scorer
        self.metrics = metrics
        self.watchdog = watchdog
        self._deadlines = deadlines
        self._running = Running(checkpoint)
        self._pace = Pace()
        self._outbox = Outbox(metrics)
        self._cancelled: set[Subscription] = set()
        self._finishing: set[Subscription] = set()
        self._wake = threading.Condition()
        self._draining = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="xdlm-engine", daemon=True)
        watchdog.on_hang = self._abandon
        metrics.watch(lambda: self.scheduler.running, lambda: self.scheduler.waiting)

    def start(self) -> None:
        """Start the engine's thread; events go to the running event loop."""
        self._outbox.open()
        self._thread.start()

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""
        self._draining = True

    def stop(self) -> None:
        """Fail whatever is left and end the thread, after the step in progress."""
        self.watchdog.stop()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.error("the step in progress does not end; it is left behind")
            self._fail_all(SHUTTING_DOWN)

    @property
    def unready(self) -> str | None:
        """Why no requests are taken; None where they are."""
        if self._draining or self._stopping:
            return "shutting down"
        if not self._thread.is_alive():
            return "not started"
        return "a denoising step does not come back" if self.watchdog.hung else None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.unready is None

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        with self._wake:
            return not (self.scheduler.running or self.scheduler.waiting or self.scorer.waiting)

    @property
    def backlog(self) -> int:
        """Positions × steps left of all that is here."""
        with self._wake:
            return self.scheduler.backlog + self.scorer.backlog

    @property
    def backlog_seconds(self) -> float:
        """About how long that takes, at the pace seen of late."""
        return self._pace.seconds(self.backlog)

    def retry_after(self) -> int:
        """Whole seconds after which a client that found no room may come again."""
        return self._pace.retry_after(self.backlog)

    def submit(self, request: GenerationRequest) -> Subscription:
        """Queue a request.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        return self.submit_all([request])[0]

    def submit_all(
        self,
        requests: Sequence[GenerationRequest],
        on_done: Callable[[Tally], None] | None = None,
    ) -> list[Subscription]:
        """Queue several requests, all or none. ``on_done`` is called with the tally of each that
        finishes, when its end is read.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        now = time.monotonic()
        subscriptions = [Subscription(r, self.cancel, self.finish, now, on_done) for r in requests]
        works = [r.work for r in requests]
        with self._wake:
            if not self.ready or not self.scheduler.takes(works):
                raise QueueFull
            for subscription, work in zip(subscriptions, works, strict=True):
                self.scheduler.submit(subscription, work, now)
            self._wake.notify()
        return subscriptions

    def score(self, request: ScoreRequest) -> asyncio.Future[Score]:
        """Score a text; cancelling what is returned stops the work on it. Fails with
        ``ScoreFailed``.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        scoring = Scoring(request, self._outbox.promise())
        with self._wake:
            if not self.ready or not self.scorer.takes(request):
                raise QueueFull
            self.scorer.add(scoring)
            self._wake.notify()
        return scoring.future

    def cancel(self, subscription: Subscription) -> None:
        """Free a request's slot: at once if it waits, before the next step if it runs."""
        with self._wake:
            was_here = self.scheduler.remove(subscription)
            self._cancelled.add(subscription)
            self._wake.notify()
        if was_here:
            self.metrics.cancelled()

    def finish(self, subscription: Subscription) -> None:
        """End a running request as it stands, before the next step."""
        with self._wake:
            self._finishing.add(subscription)

    # The engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception:
                log.exception("the engine failed")
                self._running.clear()
                self._fail_all(BROKEN)
                self.watchdog.ended()
                self.watchdog.incident("the engine failed")
        self._running.clear()
        self._fail_all(SHUTTING_DOWN)

    def _turn(self) -> None:
        """Everything between the beginnings of two steps."""
        with self._wake:
            while self.idle and not self._stopping:
                self._running.drop(self._cancelled)
                self._cancelled.clear()
                self._finishing.clear()
                self._wake.wait()
            if self._stopping:
                return
            cancelled, self._cancelled = self._cancelled, set()
            finishing, self._finishing = self._finishing, set()
            now, limits = time.monotonic(), self._deadlines
            late, overdue = self.scheduler.late(now - limits.queued, now - limits.whole)
            change = self.scheduler.next_step()
            positions = self.scheduler.positions
        self._outbox.end([(s, QUEUE_TIMEOUT) for s in late] + [(s, DEADLINE) for s in overdue])
        self.watchdog.began()
        self._running.drop(cancelled | set(late) | set(overdue))
        self._end(self._running.finish(finishing, now))
        self._running.pause(change.pause)
        self._running.resume(change.resume)
        self._begin(change.begin, now)
        if self._running:
            self._step(positions)
        if over := self.scorer.advance():
            self._outbox.scored(*over)
        self.watchdog.ended()

    def _begin(self, begin: Sequence[Subscription], now: float) -> None:
        for subscription in begin:
            subscription.admitted = now
            self.metrics.queued(now - subscription.submitted)
        told = self._running.begin(begin)
        self._end([(o, event) for o, event in told if isinstance(event, Failed)])
        self._outbox.send([(o, event) for o, event in told if not isinstance(event, Failed)])

    def _step(self, positions: int) -> None:
        began = time.monotonic()
        stepped = self._running.step(began, self._pace.step)
        for record in stepped.records:
            self._outbox.call(record.deliver)
        seconds = time.monotonic() - began
        self._pace.saw(seconds, positions)
        self.metrics.stepped(
            seconds=seconds,
            requests=stepped.requests,
            positions=stepped.positions,
            head_rows=stepped.head_rows,
            skipped=stepped.skipped,
        )
        self._end(stepped.ended)

    # Any thread ----------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """A step hangs: nobody is to wait for it any longer."""
        self._fail_all(HUNG)

    def _fail_all(self, failed: Failed) -> None:
        with self._wake:
            left, unscored = self.scheduler.drain(), self.scorer.drain()
            self._cancelled.update(left)
        self._outbox.end([(s, failed) for s in left])
        for scoring in unscored:
            self._outbox.scored(scoring, ScoreFailed(failed))

    def _end(self, ended: Sequence[Told]) -> None:
        """Tell those who are still here, once."""
        with self._wake:
            here = [(owner, event) for owner, event in ended if self.scheduler.remove(owner)]
        self._outbox.end(here)
