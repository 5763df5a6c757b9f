"""Raw HTTP clients for benchmarks: they check that each answer is complete, and can misbehave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from benchmarks.isolated import Record, save
from benchmarks.serving import Server, metrics

BODY = {"prompt": "Once upon a time", "max_tokens": 24, "steps": 6, "seed": 11}
LONG = {**BODY, "max_tokens": 200, "steps": 4000}


@dataclass
class Answer:
    """An answer: its status, whether it is complete, and how long it took."""

    status: int
    whole: bool
    seconds: float
    body: bytes = b""
    retry_after: int | None = None

    @property
    def error(self) -> bool:
        """A stream that ended with its error event."""
        return b'"error"' in self.body


def encoded(body: dict | bytes, path: str) -> bytes:
    """A request that asks for its connection to be closed."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload


@asynccontextmanager
async def connected(
    server: Server, body: dict | bytes, path: str = "/v1/completions", limit: int = 1 << 16
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request that has been sent; the connection is closed after the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=limit)
    try:
        writer.write(encoded(body, path))
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(server: Server, body: dict | bytes, path: str = "/v1/completions") -> Answer:
    """Send a request and read its answer to the end."""
    began = time.perf_counter()
    async with connected(server, body, path) as (reader, _):
        raw = await reader.read()
    head, _, rest = raw.partition(b"\r\n\r\n")
    took = time.perf_counter() - began
    if not head:
        return Answer(0, False, took)
    status = int(head.split(b" ", 2)[1])
    lower = head.lower()
    if b"content-length: " in lower:
        size = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        whole = len(rest) == size
    else:  # chunked: the last chunk, and of a stream of events exactly one end
        whole = rest.endswith(b"0\r\n\r\n") and rest.count(b"[DONE]") == 1
    wait = lower.partition(b"retry-after: ")[2].split(b"\r\n")[0]
    return Answer(status, whole, took, rest, int(wait) if wait else None)


async def drop(server: Server, body: dict, after: float) -> None:
    """Reset the connection of a request after some seconds."""
    async with connected(server, body) as (_, writer):
        await asyncio.sleep(after)
        writer.transport.abort()


def quantile(values: list[float], q: float) -> float:
    """Quantile of values in any order; 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


async def canary(server: Server) -> bytes:
    """Choices of the answer to a fixed request, which must never change."""
    answer = await ask(server, BODY)
    assert answer.status == 200 and answer.whole, answer
    return json.dumps(json.loads(answer.body)["choices"]).encode()


async def clean(server: Server, expected: bytes) -> dict[str, bool]:
    """Whether the server is idle and answers the fixed request as before."""
    idle = False
    for _ in range(100):
        found = await asyncio.to_thread(metrics, server)
        idle = not found["xdlm_requests_running"] and not found["xdlm_requests_waiting"]
        if idle:
            break
        await asyncio.sleep(0.1)
    return {"idle": idle, "canary": await canary(server) == expected}


async def collect(found: AsyncIterator[Record], name: str | None) -> None:
    """Print records as they come, and save them in ``benchmarks/results`` where a name is given."""
    records: list[Record] = []
    async for record in found:
        records.append(record)
        print(json.dumps(record), flush=True)
    if name:
        save(name, records)
