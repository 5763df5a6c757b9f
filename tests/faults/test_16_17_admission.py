"""More than the server can do, and requests that take too long."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.engine.events import Done, Failed
from tests.faults.conftest import watched
from tests.support.effort import count
from tests.support.engine import request, result
from tests.support.http import call, metric, wait_for
from tests.support.serving import make_engine, settings_of
from tests.support.sockets import CANARY, LONG, events_of, read_all, send

CLOSE = "Connection: close\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("factor", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_row_16_queue_overflow(tiny, factor):
    """Many times as many as fit: each is answered, and every one that was accepted is whole."""
    with watched(tiny, max_waiting=8, max_running=4) as server:
        body = {**CANARY, "steps": 60}
        before = metric(server.served, 'xdlm_request_failure_total{code="queue_full"}')
        many = [send(server.port, {**body, "seed": i}, headers=CLOSE) for i in range(12 * factor)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(read_all, many))
        statuses = [status_of(answer) for answer in answers]
        assert set(statuses) == {200, 429} and len(statuses) == 12 * factor
        for answer in answers:
            head, told = answer.split(b"\r\n\r\n", 1)
            if status_of(answer) == 429:
                assert int(head.lower().split(b"retry-after: ")[1].split(b"\r\n")[0]) >= 1
                assert json.loads(told)["error"]["code"] == "queue_full"
            else:
                assert json.loads(told)["choices"][0]["finish_reason"]
        after = metric(server.served, 'xdlm_request_failure_total{code="queue_full"}')
        assert after - before == statuses.count(429) > 0


def test_row_16_the_queue_is_bounded_by_work(tiny):
    """Few requests, but each of many steps."""
    with watched(tiny, max_running=1, max_backlog=35 * 5000) as server:
        first = send(server.port, LONG)
        wait_for(lambda: server.engine.scheduler.running == 1)
        second = send(server.port, {**LONG, "seed": 2})
        wait_for(lambda: server.engine.scheduler.waiting == 1)
        response, text = call(server.served, "POST", "/v1/completions", LONG)
        assert response.status == 429 and json.loads(text)["error"]["code"] == "queue_full"
        short = send(server.port, CANARY, headers=CLOSE)  # little work: it has room
        assert status_of(read_all(short)) == 200
        first.close()
        second.close()


async def test_row_16_retry_after_grows_with_the_backlog(tiny):
    engine = make_engine(tiny, max_running=1, max_waiting=1000)
    engine.start()
    try:
        engine.submit(request(0, length=100, steps=300))
        while not engine.scheduler.running:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        few = engine.retry_after()
        for i in range(100):
            engine.submit(request(i, length=100, steps=300))
        many = engine.retry_after()
        assert 1 <= few < many <= 600
    finally:
        engine.stop()


def test_row_16_scores_have_a_bounded_queue_too(tiny):
    with watched(tiny, max_waiting=2) as server:
        body = {"text": " named Lily." * 20, "samples": count(60, 200)}
        many = [send(server.port, body, path="/v1/score", headers=CLOSE) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(status_of(answer) for answer in pool.map(read_all, many))
        assert set(statuses) == {200, 429} and statuses.count(200) >= 2


@pytest.mark.parametrize("limit", ["queue_seconds", "request_seconds"])
async def test_row_17_deadlines(tiny, limit):
    """Running requests are not hurt by the queue's deadline, and both free the slot."""
    engine = make_engine(tiny, max_running=1, **{limit: 0.3})
    engine.start()
    try:
        running = engine.submit(request(0, length=100, steps=400))  # a second
        while not engine.scheduler.running and not running.ended:
            await asyncio.sleep(0)
        waiting = engine.submit(request(1, length=100, steps=1500))
        first, second = await asyncio.gather(result(running), result(waiting))
        assert isinstance(second, Failed)
        if limit == "queue_seconds":
            assert isinstance(first, Done) and second.code == "queue_timeout"
        else:
            assert isinstance(first, Failed) and first.code == second.code == "deadline"
        assert engine.idle
    finally:
        engine.stop()


def test_row_17_deadline_over_http(tiny):
    """503 with Retry-After before the headers; one error event and the end behind them."""
    server = watched(tiny, request_seconds=0.5)
    with server as watching:
        whole = send(watching.port, LONG, headers=CLOSE)
        stream = send(watching.port, {**LONG, "stream": True}, headers=CLOSE)
        refused, streamed = read_all(whole), read_all(stream)
        assert status_of(refused) == 503 and b"retry-after: " in refused.lower()
        assert json.loads(refused.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "deadline"
        *_, failed, end = events_of(streamed)
        assert status_of(streamed) == 200 and end == "[DONE]"
        assert json.loads(failed)["error"]["code"] == "deadline"
        assert streamed.count(b'"error"') == 1
        assert metric(watching.served, 'xdlm_request_failure_total{code="deadline"}') == 2


@pytest.mark.parametrize(
    ("limits", "key"),
    [({"rate_per_minute": 5}, ""), ({"key_rate_per_minute": 5, "api_keys": ["a", "b"]}, "a")],
)
def test_row_16_rates(tiny, limits, key):
    """The sixth within a minute comes too early, and hears when to come again."""
    from tests.support.serving import run_server

    running = run_server(make_engine(tiny), settings_of(**limits))
    served = next(running)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def ask(key_headers) -> tuple:
        response, _ = call(served, "POST", "/tokenize", {"prompt": "x"}, key_headers)
        return response.status, response.headers["Retry-After"]

    answers = [ask(headers) for _ in range(6)]
    assert [status for status, _ in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1][1]) <= 12
    if key:
        assert ask({**headers, "Authorization": "Bearer b"})[0] == 200
    assert call(served, "GET", "/v1/models", headers=headers)[0].status == 200
    next(running, None)
