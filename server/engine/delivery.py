"""Delivers events and outcomes from the engine's thread to the event loop, and counts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from server.engine.batches import Notification
from server.engine.metrics import Metrics
from server.engine.score_request import Score
from server.engine.scoring import ScoreFailed, ScoreOutcome, ScoreTask


class Delivery:
    """Delivers in order; usable from any thread after ``open``."""

    def __init__(self, metrics: Metrics) -> None:
        """Counts into ``metrics``."""
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Deliver to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def promise(self) -> asyncio.Future[Score]:
        """A future of that loop, for a score."""
        assert self._loop is not None
        return self._loop.create_future()

    def end(self, ended: Sequence[Notification]) -> None:
        """Deliver the last events of requests, and count them."""
        for owner, event in ended:
            self._metrics.ended(owner.request, event, time.monotonic() - owner.submitted)
        self.send(ended)

    def send(self, events: Sequence[Notification]) -> None:
        """Deliver events to their subscriptions; one that cannot be pushed fails its request."""

        def deliver() -> None:
            for owner, event in events:
                try:
                    owner.push(event)
                except Exception:
                    owner.fail()

        if events:
            self.call(deliver)

    def scored(self, task: ScoreTask, outcome: ScoreOutcome) -> None:
        """Deliver the outcome of a score, and count it."""
        self._metrics.scored(outcome.failed.code if isinstance(outcome, ScoreFailed) else None)
        self.call(lambda: task.settle(outcome))

    def call(self, deliver: Callable[[], None]) -> None:
        """Call a function on the event loop, unless the loop is closed."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop was closed, perhaps this moment by its own thread
            self._loop.call_soon_threadsafe(deliver)
