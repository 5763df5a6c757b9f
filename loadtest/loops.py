"""Open and closed loops: when requests are sent.

Locust users are a closed loop: a user that waits for an answer sends nothing, so a server that
stalls receives fewer requests meanwhile (coordinated omission). The open loop here fixes beforehand
when each request is due, sends it then whatever the state of the others, and counts latency from
that time. ``locustfile.py`` reads the same streams with locust, for its page and workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.client import Clock
from loadtest.records import Record

Send = Callable[[int, float], Coroutine[Any, Any, Record]]
"""Sends request ``number``, which is due at the given time of the clock."""

PAUSE_AFTER_FAILURE = 0.05  # so that refusals do not raise the request rate
LAG_EVERY = 0.02


class Traffic:
    """The requests of one cell.

    Attributes:
        records: of finished requests, in the order in which they ended.
        under_way: tasks of requests that were sent and have not ended.
    """

    def __init__(self, send: Send, clock: Clock) -> None:
        """Nothing has been sent yet."""
        self._send, self._clock = send, clock
        self.records: list[Record] = []
        self.under_way: set[asyncio.Task[Record]] = set()

    async def open(self, due: Sequence[float]) -> float:
        """Send each request when it is due; returns the time of the last sending."""
        for number, at in enumerate(due):
            await self._clock.until(at)
            self._start(number, at)
        return self._clock.now()

    async def closed(self, width: int, stop: float, most: int) -> float:
        """Keep ``width`` requests under way until ``stop``, ``most`` in all; returns the time of
        the last sending.
        """
        number, last = 0, self._clock.now()

        async def worker() -> None:
            nonlocal number, last
            while number < most and self._clock.now() < stop:
                mine, number, last = number, number + 1, self._clock.now()
                (done,), _ = await asyncio.wait([self._start(mine, last)])
                if done.result().failure is not None:
                    await asyncio.sleep(PAUSE_AFTER_FAILURE)

        workers = [asyncio.create_task(worker()) for _ in range(width)]
        await asyncio.wait(workers, timeout=max(0.0, stop - self._clock.now()))
        for task in workers:  # their requests go on
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return last

    async def drain(self, seconds: float) -> None:
        """Wait for the requests under way; cancel those that are left after ``seconds``."""
        await asyncio.sleep(0)
        if not self.under_way:
            return
        _, late = await asyncio.wait(self.under_way, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _start(self, number: int, at: float) -> asyncio.Task[Record]:
        task = asyncio.create_task(self._send(number, at))
        self.under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Record]) -> None:
        self.under_way.discard(task)
        if not task.cancelled():
            self.records.append(task.result())


@dataclass
class Strain:
    """Load of the client itself."""

    lags: list[float] = field(default_factory=list)
    cpu_share: float = 0.0

    @property
    def lag_p99_ms(self) -> float:
        """99th percentile of the event loop's lateness, the timer's own millisecond included."""
        return 1e3 * float(np.percentile(self.lags, 99)) if self.lags else 0.0


@asynccontextmanager
async def watching() -> AsyncIterator[Strain]:
    """Measure the load of the client while the block runs."""
    strain = Strain()

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY)
            strain.lags.append(time.perf_counter() - before - LAG_EVERY)

    task = asyncio.create_task(watch())
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield strain
    finally:
        strain.cpu_share = (time.process_time() - cpu) / max(1e-9, time.perf_counter() - wall)
        task.cancel()
