"""Sends one request with aiohttp and times its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from loadtest.answer_reader import AnswerReader, failure_of_status
from loadtest.records import GAVE_UP, Record

IDLE_SECONDS = 2.0  # shorter than servers keep idle connections: none closes while reused


def open_session(url: str, key: str | None) -> aiohttp.ClientSession:
    """A session for one server, without a limit of connections."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
    return aiohttp.ClientSession(url, headers=headers, connector=connector, auto_decompress=False)


@dataclass
class Clock:
    """Seconds since the measured window began; negative during the warm-up."""

    zero: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        """Seconds on this clock."""
        return time.perf_counter() - self.zero

    async def until(self, at: float) -> None:
        """Sleep until then. A timer of the event loop fires up to a millisecond late, so the last
        two milliseconds are spent yielding to the loop repeatedly.
        """
        while (left := at - self.now()) > 0:
            await asyncio.sleep(left - 0.002 if left > 0.002 else 0)


@dataclass(frozen=True)
class PreparedRequest:
    """A request to send.

    Attributes:
        id: value of ``X-Request-Id``.
        path: of the route.
        body: its JSON.
        number: within the cell.
        prompt: index of its prompt.
        timeout: limit in seconds, from sending to the end of the answer.
    """

    id: str
    path: str
    body: Mapping[str, Any]
    number: int
    prompt: int
    timeout: float


async def perform(
    session: aiohttp.ClientSession, request: PreparedRequest, clock: Clock, intended: float
) -> Record:
    """Send a request, read its answer to the end and return the record. Failures are part of the
    record; if the task is cancelled, the record says that the client gave up.
    """
    reading = AnswerReader()
    failure: str | None = None
    body = orjson.dumps(request.body)
    headers = {"Content-Type": "application/json", "X-Request-Id": request.id}
    timeout = aiohttp.ClientTimeout(total=request.timeout, sock_connect=request.timeout)
    sent = clock.now()
    try:
        async with session.post(
            request.path, data=body, headers=headers, timeout=timeout, allow_redirects=False
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
    spent = reading.usage.get("diffusion") or {}
    tokens = reading.usage.get("completion_tokens", reading.usage.get("output_tokens"))
    return Record(
        id=request.id,
        number=request.number,
        prompt=request.prompt,
        seed=request.body["seed"],
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
        queue_ms=spent.get("queue_ms"),
        denoise_ms=spent.get("denoise_ms"),
        forwards=spent.get("forwards"),
        steps_taken=spent.get("steps"),
    )
