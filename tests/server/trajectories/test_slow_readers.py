"""Readers that lag: what they have not read yet counts, and is bounded."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import socket
import time
import weakref

import pytest

from server.api.jobs.following import MAX_FOLLOWERS
from server.http.protocol import GuardedProtocol
from server.trajectories.recording import FORGOTTEN, OVERHEAD
from tests.support.http import BODY, call, wait_for
from tests.support.serving import make_engine, run_server, settings_of
from tests.support.trajectory_client import PATH, Follower, records

MEGABYTE = {**BODY, "steps": 100, "n": 14, "mixing_ratio": 0.5}  # takes about 0.8 MB


class Tight(GuardedProtocol):
    """The kernel takes little of what is not read."""

    send_buffer = 8 << 10


@pytest.fixture
def small(tiny):
    """A server that keeps a megabyte."""
    server = run_server(make_engine(tiny), settings_of(trajectory_store_mb=1), http=Tight)
    yield next(server)
    next(server, None)


class Slow:
    """A client that has sent its request and reads nothing before ``rest``."""

    def __init__(self, served, path: str, accept: str = "application/x-ndjson") -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", served.port))
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"
        self.socket.sendall(head.encode())

    def rest(self) -> bytes:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        assert response.status == 200
        with contextlib.closing(self.socket), response:
            return response.read()


class Kept:
    """A recording that was made and has ended; nothing here keeps it alive."""

    def __init__(self, served, **chosen) -> None:
        self.told = records(served, {**MEGABYTE, **chosen})
        assert self.told[-1]["event"] == "diffusion.completed"
        self.id = self.told[0]["data"]["id"]
        self.path = f"{PATH}/{self.id}"
        found = served.state.trajectories.get(self.id, time.monotonic())
        assert found is not None
        self._found = weakref.ref(found)

    @property
    def bytes(self) -> int:
        gc.collect()
        found = self._found()
        return sum(len(r.data) + OVERHEAD for r in found.records) if found else 0

    @property
    def followers(self) -> int:
        found = self._found()
        return found.followers if found else 0


def gone(served, kept: Kept) -> bool:
    return served.state.trajectories.get(kept.id, time.monotonic()) is None


@pytest.mark.slow
def test_forgotten_recordings_with_slow_readers_take_no_more_than_the_store(small):
    kept: list[Kept] = []
    slow: list[Slow] = []
    for seed in range(3):
        one = Kept(small, seed=seed)
        kept.append(one)
        slow.append(Slow(small, one.path))
        wait_for(lambda one=one: one.followers == 1)
        assert sum(k.bytes for k in kept) <= 1 << 20
    for reader in slow[:2]:
        *lines, last = reader.rest().splitlines()
        assert len(lines) < 1000 and json.loads(lines[0])["event"] == "diffusion.created"
        assert json.loads(last)["event"] == "diffusion.failed"
        assert json.loads(last)["data"]["error"]["code"] == FORGOTTEN
    assert json.loads(slow[2].rest().splitlines()[-1])["event"] == "diffusion.completed"


@pytest.mark.parametrize(
    "form", ["text/event-stream", pytest.param("application/json", marks=pytest.mark.slow)]
)
def test_a_deleted_recording_ends_its_slow_readers(small, form):
    kept = Kept(small)
    slow = Slow(small, kept.path, form)
    wait_for(lambda: kept.followers == 1)
    assert call(small, "DELETE", kept.path)[0].status == 200
    assert kept.bytes == 0
    text = slow.rest().decode()
    assert text.count("diffusion.failed") == text.count(FORGOTTEN) == 1
    if form == "application/json":
        assert json.loads(text)["events"][-1]["event"] == "diffusion.failed"


def test_a_recording_that_is_too_old_counts_until_its_readers_have_gone(tiny):
    limits = {"trajectory_store_seconds": 0.5, "trajectory_store_mb": 8}
    server = run_server(make_engine(tiny), settings_of(**limits))
    served = next(server)
    kept = Kept(served)
    slow = Slow(served, kept.path)
    wait_for(lambda: kept.followers == 1)
    wait_for(lambda: gone(served, kept))
    assert kept.bytes == served.state.trajectories.bytes > 1 << 18
    assert [json.loads(line) for line in slow.rest().splitlines()] == kept.told
    wait_for(lambda: kept.followers == 0)
    assert gone(served, kept)
    assert kept.bytes == served.state.trajectories.bytes == 0
    next(server, None)


def test_more_readers_of_a_recording_than_the_limit_are_refused(small):
    kept = Kept(small)
    slow = [Slow(small, kept.path) for _ in range(MAX_FOLLOWERS)]
    wait_for(lambda: kept.followers == MAX_FOLLOWERS)
    response, text = call(small, "GET", kept.path)
    error = json.loads(text)["error"]
    assert response.status == 429 and error["code"] == "too_many_readers"
    assert response.headers["retry-after"] and str(MAX_FOLLOWERS) in error["message"]
    slow.pop().rest()
    wait_for(lambda: kept.followers == MAX_FOLLOWERS - 1)
    follower = Follower(small, "GET", kept.path)
    assert follower.status == 200 and "diffusion.completed" in follower.read()
    for one in slow:
        one.socket.close()
