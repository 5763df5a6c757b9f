"""Real servers on loopback, raw clients, and the invariant that holds after every fault."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import IncompleteRead
from typing import Any

import pytest

from models.checkpoints.load import Checkpoint
from server.http.protocol import GuardedProtocol
from tests.server.conftest import quiet, tiny, tiny_folder  # noqa: F401 (fixtures)
from tests.support.http import call, metric, wait_for
from tests.support.memory import descriptors, rss, threads, within
from tests.support.serving import Served, make_engine, run_server, settings_of
from tests.support.sockets import (
    CANARY,
)


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
            list(pool.map(self.tokenize, ["the king " * 5_000] * 4))
        self.ask(structured_outputs={"choice": ["a", "b"]})  # the process that compiles stays
        self.threads, self.descriptors, self.rss = threads(), descriptors(), rss()

    def ask(self, **fields: Any) -> list:
        response, text = call(self.served, "POST", "/v1/completions", CANARY | fields)
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
        assert within(1.05 * self.rss + (64 << 20))


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


def pause(seconds: float = 0.05) -> None:
    time.sleep(seconds)
