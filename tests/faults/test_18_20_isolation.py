"""A request that breaks the step, and steps that do not come back."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPConnection

import pytest
import torch

from benchmarks.poisoned import BAD, MARK, Stumbling, broken, no_memory, sick, stumbling
from server.engine.events import Done, Failed
from server.engine.factory import engine_of
from server.engine.watchdog import Watchdog
from tests.faults.conftest import watched
from tests.support.effort import count
from tests.support.engine import request, result, until_idle
from tests.support.http import call, metric, wait_for
from tests.support.processes import serving
from tests.support.serving import make_engine, settings_of
from tests.support.sockets import CANARY, LONG, read_all, send


def no_host_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def no_python_memory() -> None:
    raise MemoryError


async def hurts_only(engine, code: str, times: int) -> None:
    """Bad requests among good ones: those fail, and these give the bytes that they give alone."""
    good = [request(i, length=8 + 5 * i, steps=8 + i, mixing_ratio=0.0) for i in range(5)]
    alone = [await result(engine.submit(r)) for r in good]
    for _ in range(times):
        beside = [engine.submit(r) for r in good[:3]]
        bad = engine.submit(BAD)
        beside += [engine.submit(r) for r in good[3:]]
        failed = await result(bad)
        assert isinstance(failed, Failed) and failed.code == code
        for one, subscription in zip(alone, beside, strict=True):
            together = await result(subscription)
            assert isinstance(one, Done) and isinstance(together, Done)
            assert together.tokens == one.tokens
    await until_idle(engine)
    assert engine.ready


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stumble", [no_memory, no_host_memory, no_python_memory])
async def test_row_18_allocation_failure(tiny, stumble, times):
    engine = make_engine(stumbling(tiny, stumble), max_positions=1024)
    engine.start()
    try:
        await hurts_only(engine, "out_of_memory", times)
    finally:
        engine.stop()


async def test_row_18_too_much_at_once_is_done_in_parts(tiny):
    """Memory for three canvases: eight are stepped all the same, and nobody fails."""

    class Small(Stumbling):
        def trunk(self, tokens, offsets, rows=None, labels=None, segments=None):
            if len(offsets) - 1 > 3:
                no_memory()
            return self.network.trunk(tokens, offsets, rows, labels, segments)

    small = replace(tiny, model=Small(tiny.model, no_memory))
    engine, plain = make_engine(small, max_positions=1024), make_engine(tiny)
    engine.start()
    plain.start()
    try:
        many = [request(i, steps=8, sampler=("ancestral", "topk")[i % 2]) for i in range(8)]
        parts = await asyncio.gather(*(result(engine.submit(r)) for r in many))
        whole = await asyncio.gather(*(result(plain.submit(r)) for r in many))
        tokens = [d.tokens for d in (*parts, *whole) if isinstance(d, Done)]
        assert len(tokens) == 16 and tokens[:8] == tokens[8:]
    finally:
        engine.stop()
        plain.stop()


def test_row_18_allocation_failure_is_503(tiny):
    prompt = [0, MARK]
    with watched(stumbling(tiny, no_memory)) as server:
        response, _ = call(server.served, "POST", "/v1/completions", {**CANARY, "prompt": prompt})
        assert response.status == 503 and int(response.headers["Retry-After"]) >= 1
        body = {"text": prompt, "samples": 4, "mixing_ratio": 0.0}
        response, text = call(server.served, "POST", "/v1/score", {**body, "prompt": prompt})
        assert response.status == 503, text


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.slow)])
async def test_row_19_exception_in_a_step(tiny, times):
    engine = make_engine(stumbling(tiny, broken), max_positions=1024)
    engine.start()
    try:
        await hurts_only(engine, "internal", times)
    finally:
        engine.stop()


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.slow)])
async def test_row_19_numbers_that_are_none_for_one_row(tiny_folder, times):
    """A checkpoint whose embedding of one id is not a number."""
    engine = make_engine(sick(str(tiny_folder)), max_positions=1024)
    engine.start()
    try:
        await hurts_only(engine, "not_finite", times)
    finally:
        engine.stop()


class Hang:
    """Something that a step waits for, once."""

    def __init__(self) -> None:
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.over.wait(20)


async def test_row_20_a_step_that_hangs_and_comes_back(tiny):
    """Everybody hears of it at once; readiness goes and returns."""
    hang, fatal, now = Hang(), [], [0.0]
    watchdog = Watchdog(10, fatal.append, lambda: now[0])
    engine = engine_of(stumbling(tiny, hang), settings_of(), watchdog=watchdog)
    engine.start()
    try:
        waiting = [engine.submit(request(1, steps=400)), engine.submit(BAD)]
        await asyncio.to_thread(hang.reached.wait, 10)
        watchdog.check()
        assert engine.ready
        now[0] += 11
        watchdog.check()
        failed = [await asyncio.wait_for(result(s), 1) for s in waiting]
        assert [f.code for f in failed if isinstance(f, Failed)] == ["engine_hung"] * 2
        assert engine.unready == "a denoising step does not come back" and not fatal
        hang.over.set()
        while not engine.ready:
            await asyncio.sleep(0.01)
        assert isinstance(await result(engine.submit(request(2))), Done)
        text = engine.metrics.render()
        assert b'failure_total{code="engine_hung"} 2.0' in text
        assert b'failure_total{code="internal"} 0.0' in text  # each is counted once
        await until_idle(engine)
    finally:
        hang.over.set()
        engine.stop()


def test_row_20_three_incidents_in_five_minutes_are_fatal():
    fatal: list[str] = []
    now = [0.0]
    watchdog = Watchdog(10, fatal.append, lambda: now[0])
    for at in (0.0, 200.0, 400.0, 650.0):
        now[0] = at
        watchdog.incident("a step hangs")
        assert not fatal
    now[0] = 690.0
    watchdog.incident("a step hangs")
    assert len(fatal) == 1 and fatal[0].startswith("3 incidents within 300 s")


async def test_row_20_a_step_that_never_comes_back_is_fatal(tiny):
    hang, fatal, now = Hang(), [], [0.0]
    watchdog = Watchdog(10, fatal.append, lambda: now[0])
    engine = engine_of(stumbling(tiny, hang), settings_of(), watchdog=watchdog)
    engine.start()
    engine.submit(BAD)
    await asyncio.to_thread(hang.reached.wait, 10)
    for _ in range(2):
        now[0] += 11
        watchdog.check()
    assert len(fatal) == 1 and "has not come back for 22.0 s" in fatal[0]
    hang.over.set()
    engine.stop()


async def test_row_20_an_engine_that_fails_outside_a_request(tiny):
    """Everybody fails, the engine goes on, and it is an incident."""

    class Forgetful:
        """A checkpoint's network that raises what no request can be blamed for."""

        classes = 0

        def trunk(self, tokens, offsets, rows=None, labels=None, segments=None):
            raise torch.AcceleratorError("the device is lost", 1)

        def reserve(self, slots):
            pass

        def copy_slots(self, sources, targets):
            pass

        def head(self, hidden):
            raise AssertionError("no hidden states were made")

    fatal: list[str] = []
    engine = engine_of(
        replace(tiny, model=Forgetful()), settings_of(), watchdog=Watchdog(10, fatal.append)
    )
    engine.start()
    try:
        for i in range(3):
            assert not fatal
            failed = await result(engine.submit(request(i)))
            assert isinstance(failed, Failed) and failed.code == "internal"
        for _ in range(100):
            if fatal:
                break
            await asyncio.sleep(0.01)
        assert len(fatal) == 1
    finally:
        engine.stop()


def test_row_20_the_process_ends_when_a_step_hangs(tiny_folder):
    """A limit that no step of a real server can keep: stack in the log, code 70. On a busy machine
    a step may be over before it is looked at again, and another one is needed.
    """
    deadline = time.monotonic() + 60
    with serving(str(tiny_folder), XDLM_WATCHDOG_SECONDS="0.0001") as process:
        while process.popen.poll() is None and time.monotonic() < deadline:
            with suppress(ConnectionError):
                read_all(send(process.port, {**LONG, "stream": True}))
        assert process.popen.wait(30) == 70
    told = {line["event"] for line in process.lines()}
    assert {"a step hangs", "giving up"} <= told
    stacks = [x["stack"] for x in process.lines() if x["event"] == "a step hangs"]
    assert any("server/engine/engine.py" in stack for stack in stacks)


def test_row_20_killed_and_started_again(tiny_folder):
    """Clients see the connection break at once; the same port serves again."""
    with serving(str(tiny_folder)) as first:
        stream = send(first.port, {**LONG, "stream": True})
        assert stream.recv(10)
        began = time.monotonic()
        first.popen.send_signal(signal.SIGKILL)
        assert b"[DONE]" not in read_all(stream)
        assert time.monotonic() - began < 10
        first.popen.wait(10)
    with serving(str(tiny_folder), port=first.port) as second:
        assert call(second, "POST", "/v1/completions", CANARY)[0].status == 200


def test_row_20_stopped_and_continued(tiny_folder):
    """No part of a stopped process can tell of it: who asks for ``/health`` gets no answer. It goes
    on where it was, and nobody's text has changed.
    """
    slow = {**CANARY, "steps": count(120, 600)}
    with serving(str(tiny_folder)) as process, ThreadPoolExecutor(1) as pool:
        response, alone = call(process, "POST", "/v1/completions", slow)
        assert response.status == 200
        asked = pool.submit(call, process, "POST", "/v1/completions", slow)
        wait_for(lambda: metric(process, "xdlm_requests_running") == 1)
        process.popen.send_signal(signal.SIGSTOP)
        connection = HTTPConnection("127.0.0.1", process.port, timeout=1)
        with closing(connection), pytest.raises(TimeoutError):
            connection.request("GET", "/health")
            connection.getresponse()
        assert not asked.done()
        process.popen.send_signal(signal.SIGCONT)
        response, text = asked.result()
        assert response.status == 200
        assert json.loads(text)["choices"] == json.loads(alone)["choices"]
        assert call(process, "GET", "/ready")[0].status == 200


def test_row_20_readiness_says_why(tiny):
    with watched(tiny) as server:
        assert server.engine.unready is None
    assert server.engine.unready == "shutting down"
