"""Clients that go away: running, streaming, waiting, or with several choices."""

from __future__ import annotations

import json
import random
import statistics
import time

import pytest

from tests.faults.conftest import watched
from tests.support.http import call, metric, wait_for
from tests.support.sockets import CANARY, LONG, read_all, reset, send

GRACE = 0.1  # seconds beside one step, of the median; a busy machine makes single ones longer
SLACK = 0.4
CANCELLED = 'xdlm_request_failure_total{code="cancelled"}'


def freed_within_a_step(server, slots: int) -> float:
    """All slots are free one step and a moment after now. How long a moment, in seconds."""
    began = time.monotonic()
    wait_for(lambda: server.engine.scheduler.running == slots)
    late = time.monotonic() - began - server.engine._timer.step
    assert late < GRACE + SLACK
    return late


@pytest.mark.parametrize("rounds", [2, pytest.param(125, marks=pytest.mark.slow)])
def test_row_01_drop_in_the_middle_of_a_stream(server, rounds):
    """A bystander that shares the steps gives the bytes that it gives alone."""
    chance, times, late = random.Random(1), 8 * rounds, []
    bystander = {**CANARY, "steps": 60, "seed": 5}
    _, alone = call(server.served, "POST", "/v1/completions", bystander)
    before = metric(server.served, CANCELLED)
    beside = send(server.port, bystander, headers="Connection: close\r\n")
    for i in range(times):
        stream = {**LONG, "stream": True, "trajectory": "delta", "seed": i}
        connection = send(server.port, stream)
        for _ in range(chance.randint(1, 4)):
            assert connection.recv(2048)
        reset(connection)
        if i % 8 == 7:
            told = read_all(beside).split(b"\r\n\r\n", 1)[1]
            assert json.loads(told)["choices"] == json.loads(alone)["choices"]
            late.append(freed_within_a_step(server, 0))
            if i + 1 < times:
                beside = send(server.port, bystander, headers="Connection: close\r\n")
    assert metric(server.served, CANCELLED) - before == times
    assert statistics.median_low(late) < GRACE


@pytest.mark.parametrize("times", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_row_02_drop_before_an_answer_that_is_no_stream(server, times):
    before, late = metric(server.served, CANCELLED), []
    for _ in range(times):
        connection = send(server.port, LONG)
        wait_for(lambda: server.engine.scheduler.running == 1)
        reset(connection)
        late.append(freed_within_a_step(server, 0))
    assert metric(server.served, CANCELLED) - before == times
    assert statistics.median_low(late) < GRACE


@pytest.mark.parametrize("stream", [True, False])
def test_row_03_drop_while_queued(tiny, stream):
    """It never takes part in a step."""
    with watched(tiny, max_running=1) as server:
        first = send(server.port, LONG)
        wait_for(lambda: server.engine.scheduler.running == 1)
        begun = metric(server.served, "xdlm_request_queue_time_seconds_count")
        waiting = [send(server.port, {**LONG, "stream": stream, "seed": i}) for i in range(5)]
        wait_for(lambda: server.engine.scheduler.waiting == 5)
        for connection in waiting:
            reset(connection)
        wait_for(lambda: server.engine.scheduler.waiting == 0)
        assert server.engine.scheduler.running == 1
        reset(first)
        wait_for(lambda: server.busy == 0)
        assert metric(server.served, "xdlm_request_queue_time_seconds_count") == begun


@pytest.mark.parametrize("stream", [True, False])
def test_row_04_several_choices_and_one_drop(server, stream):
    connection = send(server.port, {**LONG, "n": 4, "max_tokens": 20, "stream": stream})
    wait_for(lambda: server.engine.scheduler.running == 4)
    reset(connection)
    freed_within_a_step(server, 0)


def test_row_04_deleting_a_trajectory(server):
    connection = send(server.port, LONG, path="/v1/diffusion/trajectories")
    told = b""
    while b"\r\nid: traj-" not in told:
        told += connection.recv(4096)
    name = told.split(b"\r\nid: ")[1].split(b":")[0].decode()
    wait_for(lambda: server.engine.scheduler.running == 1)
    path = f"/v1/diffusion/trajectories/{name}"
    response, text = call(server.served, "DELETE", path)
    assert response.status == 200 and json.loads(text)["status"] == "cancelled"
    freed_within_a_step(server, 0)
    connection.close()
