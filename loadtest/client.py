"""One request over aiohttp, from the moment it is due to its last event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from loadtest.records import GAVE_UP, Record
from loadtest.sse import Reading, failure_of_status

IDLE_SECONDS = 2.0  # servers close idle connections after 5; ours must not meet that


def open_session(url: str, key: str | None) -> aiohttp.ClientSession:
    """Connections to one server, as many as there are requests under way."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
    return aiohttp.ClientSession(url, headers=headers, connector=connector, auto_decompress=False)


@dataclass
class Clock:
    """Seconds since the measured window began; negative during the warm-up."""

    zero: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        """By this clock."""
        return time.perf_counter() - self.zero

    async def until(self, at: float) -> None:
        """Sleep until then. An event loop wakes up to a millisecond late, so the last two are
        waited for in turns with whatever else has to run.
        """
        while (left := at - self.now()) > 0:
            await asyncio.sleep(left - 0.002 if left > 0.002 else 0)


@dataclass(frozen=True)
class Ask:
    """A request that is to be sent.

    Attributes:
        id: for ``X-Request-Id``.
        path: of the route.
        body: its JSON.
        number: within the cell.
        prompt: which one.
        timeout: seconds that it may take from being sent.
    """

    id: str
    path: str
    body: Mapping[str, Any]
    number: int
    prompt: int
    timeout: float


async def perform(
    session: aiohttp.ClientSession, ask: Ask, clock: Clock, intended: float
) -> Record:
    """Send it, read it to the end, and tell how it went. Fails by returning a record that says so;
    a request that is cancelled is one that the client gave up.
    """
    reading = Reading()
    failure: str | None = None
    body = orjson.dumps(ask.body)
    headers = {"Content-Type": "application/json", "X-Request-Id": ask.id}
    timeout = aiohttp.ClientTimeout(total=ask.timeout, sock_connect=ask.timeout)
    sent = clock.now()
    try:
        async with session.post(
            ask.path, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status == 200:
                async for data in response.content.iter_any():
                    reading.feed(data, clock.now())
                failure = reading.close()
            else:
                failure = failure_of_status(response.status, await response.read())
    except aiohttp.ClientConnectorError:
        failure = "connect"
    except TimeoutError:
        failure = "timeout"
    except (aiohttp.ClientError, ConnectionError):
        failure = reading.failure or "cut"
    except asyncio.CancelledError:
        failure = GAVE_UP
    ended = reading.ended if failure is None and reading.ended is not None else clock.now()
    told = reading.usage.get("diffusion") or {}
    tokens = reading.usage.get("completion_tokens", reading.usage.get("output_tokens"))
    return Record(
        id=ask.id,
        number=ask.number,
        prompt=ask.prompt,
        seed=ask.body["seed"],
        intended=intended,
        sent=sent,
        first=reading.first,
        settled=reading.settled,
        draft=reading.draft,
        ended=ended,
        failure=failure,
        warm=intended < 0,
        text=reading.text,
        tokens=tokens,
        queue_ms=told.get("queue_ms"),
        denoise_ms=told.get("denoise_ms"),
        forwards=told.get("forwards"),
        steps_taken=told.get("steps"),
    )
