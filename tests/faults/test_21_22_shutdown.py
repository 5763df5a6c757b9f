"""How the process ends."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.api.app import create_app
from server.api.lifecycle import Server
from tests.support.http import call, metric, wait_for
from tests.support.processes import serving
from tests.support.serving import make_engine, settings_of
from tests.support.sockets import CANARY, LONG, events_of, read_all, send

STREAMS = 20
CLOSE = "Connection: close\r\n"
SECONDS = 2  # that the drain lasts


def running(process, count: int) -> None:
    def busy() -> bool:
        gauges = ("xdlm_requests_running", "xdlm_requests_waiting")
        return sum(metric(process, name) for name in gauges) >= count

    wait_for(busy, 20)


@pytest.mark.parametrize("trials", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_row_21_sigterm_under_load(tiny_folder, trials):
    """Short ones end well, long ones with one error event; new ones hear 503 at once; code 0."""
    for trial in range(trials):
        with serving(str(tiny_folder), XDLM_SHUTDOWN_SECONDS=str(SECONDS)) as process:
            short = {**CANARY, "steps": 30, "stream": True, "trajectory": "delta"}
            long = {**LONG, "max_tokens": 200, "stream": True, "trajectory": "delta"}
            bodies = [short | {"seed": i} for i in range(5)]
            bodies += [long | {"seed": trial * STREAMS + i} for i in range(STREAMS - 5)]
            whole = send(process.port, {**LONG, "max_tokens": 200}, headers=CLOSE)
            streams = [send(process.port, body, headers=CLOSE) for body in bodies]
            recorded = send(process.port, long, path="/v1/diffusion/trajectories", headers=CLOSE)
            running(process, STREAMS - 4)
            with ThreadPoolExecutor(STREAMS + 2) as pool:
                told = [pool.submit(read_all, c) for c in (*streams, whole, recorded)]
                began = time.monotonic()
                process.popen.send_signal(signal.SIGTERM)
                time.sleep(0.15)
                ready, _ = call(process, "GET", "/ready")
                refused, _ = call(process, "POST", "/v1/completions", CANARY)
                assert ready.status == refused.status == 503
                assert int(refused.headers["Retry-After"]) >= 1
                assert call(process, "GET", "/health")[0].status == 200
                *answers, failed, trajectory = [future.result(30) for future in told]
            assert process.popen.wait(20) == 0
            assert time.monotonic() - began < SECONDS + 8
        for i, answer in enumerate(answers):
            *_, last, end = events_of(answer)
            assert end == "[DONE]" and answer.count(b"[DONE]") == 1
            assert answer.endswith(b"0\r\n\r\n")  # the HTTP response is whole too
            if i < 5:
                assert json.loads(last)["choices"][0]["finish_reason"]
            else:
                assert json.loads(last)["error"]["code"] == "shutting_down"
                assert answer.count(b'"error"') == 1
        assert failed.startswith(b"HTTP/1.1 503") and b"shutting_down" in failed
        assert trajectory.count(b"event: diffusion.failed") == 1
        ends = [line["end"] for line in process.lines() if line["event"] == "request"]
        assert ends.count("failed") == STREAMS - 5 + 1
        drained = [line for line in process.lines() if line["event"] == "drained"]
        assert len(drained) == 1 and drained[0]["cut_short"] == STREAMS - 5 + 2


def test_row_21_an_idle_server_ends_at_once(tiny_folder):
    with serving(str(tiny_folder), XDLM_SHUTDOWN_SECONDS="60") as process:
        assert call(process, "GET", "/ready")[0].status == 200
        idle = socket.create_connection(("127.0.0.1", process.port))
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        code = process.popen.wait(50)
        idle.close()
        assert code == 0 and time.monotonic() - began < 30  # far less than the drain may last


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_row_22_a_second_signal_ends_it_at_once(tiny_folder, second):
    with serving(str(tiny_folder), XDLM_SHUTDOWN_SECONDS="60") as process:
        stream = send(process.port, {**LONG, "max_tokens": 200, "stream": True})
        running(process, 1)
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.popen.poll() is None  # it waits for the stream
        began = time.monotonic()
        process.popen.send_signal(second)
        assert process.popen.wait(10) == 128 + second
        assert time.monotonic() - began < 2
        stream.close()
    with serving(str(tiny_folder), port=process.port) as again:
        assert call(again, "POST", "/v1/completions", CANARY)[0].status == 200


@pytest.mark.parametrize("line", [1, 2, 3])
def test_row_22_a_signal_that_interrupts_the_handler_of_the_first_hangs_nothing(tiny, line):
    """A second SIGHUP arrives on one of the lines on which the handler sets its event."""
    server = Server(create_app([make_engine(tiny)], settings_of()), [], SECONDS)
    lines = 0

    def interrupt(frame, event, _):
        nonlocal lines
        if frame.f_code is threading.Event.set.__code__ and event == "line":
            lines += 1
            if lines == line:
                server.handle_exit(signal.SIGHUP, None)
        return interrupt

    def handle() -> None:
        sys.settrace(interrupt)
        server.handle_exit(signal.SIGHUP, None)

    thread = threading.Thread(target=handle, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and lines >= line
