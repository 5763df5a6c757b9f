"""Real servers on loopback, raw clients, and the invariant that holds after every fault."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import IncompleteRead
from pathlib import Path

import pytest

from loadtest import sse
from models.checkpoints.load import Checkpoint
from server.http.protocol import GuardedProtocol
from tests.server.conftest import (  # noqa: F401 (fixtures)
    Served,
    make_engine,
    quiet,
    run_server,
    settings_of,
    tiny,
    tiny_folder,
)
from tests.server.test_http import call, metric, wait_for

CANARY = {"prompt": "Once upon a time", "max_tokens": 30, "steps": 6, "seed": 11}
LONG = {**CANARY, "steps": 4000}
"""Runs for seconds, on whatever machine."""
POOL = re.compile(
    r"xdlm-(offload|template)_\d+|asyncio_\d+|AnyIO worker thread"
)  # bounded, and made when first needed


class Hasty(GuardedProtocol):
    """Deadlines that a test can wait for."""

    head_seconds = 0.6
    body_seconds = 0.6
    stall_seconds = 0.6
    send_buffer = 8 << 10


class Watched:
    """A server, and what it looked like before anything was done to it."""

    def __init__(self, served: Served) -> None:
        self.served, self.port, self.engine = served, served.port, served.engine
        self.canary = self.ask()
        # what a thread's first long text takes stays its own: both threads have one, at once
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.tokenize, ["the king " * 50_000] * 8))
        self.threads, self.descriptors, self.rss = threads(), descriptors(), rss()

    def ask(self) -> list:
        response, text = call(self.served, "POST", "/v1/completions", CANARY)
        assert response.status == 200, text
        return json.loads(text)["choices"]

    def tokenize(self, text: str) -> None:
        # where deadlines are short, a busy machine may not read the answer in time: nobody needs it
        with suppress(IncompleteRead):
            response, _ = call(self.served, "POST", "/tokenize", {"prompt": text})
            assert response.status == 200

    @property
    def busy(self) -> int:
        return self.engine.scheduler.running + self.engine.scheduler.waiting

    def check(self) -> None:
        """The invariant."""
        wait_for(lambda: self.busy == 0 and self.engine.idle, 30)
        assert call(self.served, "GET", "/health")[0].status == 200
        assert call(self.served, "GET", "/ready")[0].status == 200
        assert self.ask() == self.canary
        assert metric(self.served, "xdlm_requests_running") == 0
        assert metric(self.served, "xdlm_requests_waiting") == 0
        wait_for(lambda: threads() <= self.threads)
        wait_for(lambda: descriptors() <= self.descriptors)
        assert rss() < 1.05 * self.rss + (64 << 20)


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if not POOL.fullmatch(t.name)}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def rss(pid: int | str = "self") -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextmanager
def watched(
    checkpoint: Checkpoint, http: type[GuardedProtocol] = GuardedProtocol, **limits
) -> Iterator[Watched]:
    """A server that must be as it was when the block ends."""
    running = run_server(make_engine(checkpoint, **limits), settings_of(**limits), http=http)
    server = Watched(next(running))
    try:
        yield server
        server.check()
    finally:
        next(running, None)


@pytest.fixture(scope="module")
def shared(tiny) -> Iterator[Watched]:  # noqa: F811
    """One for the tests of a module."""
    with watched(tiny, Hasty, max_body_mb=1) as server:
        yield server


@pytest.fixture
def server(shared) -> Iterator[Watched]:
    """The invariant is checked behind each test."""
    yield shared
    shared.check()


def request_bytes(
    body: dict | bytes, headers: str = "", path: str = "/v1/completions", method: str = "POST"
) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"{headers}Content-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(60)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", port))
    return connection


def send(port: int, body: dict, **more: str) -> socket.socket:
    connection = connect(port)
    connection.sendall(request_bytes(body, **more))
    return connection


def reset(connection: socket.socket) -> None:
    """Hang up without a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = bytearray()
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    connection.close()
    return bytes(found)


def events_of(raw: bytes) -> list[str]:
    """Data of the events of a raw chunked response."""
    body = raw.split(b"\r\n\r\n", 1)[1]
    text = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        text += rest[:length]
        body = rest[length + 2 :]
    return [event.data for event in sse.decode(text)]


def pause(seconds: float = 0.05) -> None:
    time.sleep(seconds)
