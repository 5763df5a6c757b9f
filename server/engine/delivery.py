"""Delivers events and outcomes from the engine's thread to the event loop, and counts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from server.engine.batches import Notification
from server.engine.metrics import Metrics
from server.engine.turns import Task, TaskFailed


class Delivery:
    """Delivers in order; usable from any thread after ``open``."""

    def __init__(self, metrics: Metrics) -> None:
        """Counts into ``metrics``."""
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Deliver to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def promise(self) -> asyncio.Future[Any]:
        """A future of that loop, for the result of a task."""
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

    def finished(self, task: Task[Any], outcome: Any) -> None:
        """Deliver the outcome of a task, and count it."""
        failed = outcome.failed.code if isinstance(outcome, TaskFailed) else None
        self._metrics.finished(task.counter, failed)
        self.call(lambda: task.settle(outcome))

    def call(self, deliver: Callable[[], None]) -> None:
        """Call a function on the event loop, unless the loop is closed."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop was closed, perhaps this moment by its own thread
            self._loop.call_soon_threadsafe(deliver)
