"""Readers of the log that sleep or have gone, and signals of all kinds, against a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.log_writer import HELD, LineWriter
from tests.support.fork_server import ForkedPopen
from tests.support.http import BODY, call, raw_post
from tests.support.processes import XDLM, Process

ENDS = 20.0
"""Seconds in which an idle server ends, on a busy machine; without a drain it never would."""


@contextmanager
def logging_to(descriptor: int, folder: os.PathLike[str], **variables: str) -> Iterator[Process]:
    """A server whose log goes to a descriptor that this test reads, or does not."""
    popen = ForkedPopen(
        [XDLM, "serve", folder, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=descriptor,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        assert popen.stdout is not None
        told = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", told)):
            line = popen.stdout.readline()
            assert line, told
            told += line
        process = Process(int(found[1]), popen)
        while call(process, "GET", "/ready")[0].status != 200:
            time.sleep(0.05)
        yield process
    finally:
        popen.kill()
        popen.communicate()


def log_more_than_a_pipe_holds(process: Process) -> None:
    """Each line has 200 bytes and more, a pipe room for 65,536."""
    for _ in range(500):
        assert call(process, "GET", "/v1/models/none")[0].status == 404


@pytest.mark.parametrize("reader", ["sleeps", pytest.param("has gone", marks=pytest.mark.slow)])
def test_serving_and_sigterm_when_the_reader_of_the_log_stops_reading(tiny_folder, reader):
    reading, writing = os.pipe()
    with logging_to(writing, tiny_folder) as process:
        os.close(writing)
        if reader == "has gone":
            os.close(reading)
        log_more_than_a_pipe_holds(process)
        assert call(process, "POST", "/v1/completions", BODY)[0].status == 200
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(ENDS) == 0
    if reader == "sleeps":
        os.close(reading)


def test_a_second_signal_ends_a_server_whose_log_is_full(tiny_folder):
    reading, writing = os.pipe()
    with logging_to(writing, tiny_folder, XDLM_SHUTDOWN_SECONDS="60") as process:
        os.close(writing)
        log_more_than_a_pipe_holds(process)
        stream = {**BODY, "steps": 4000, "max_tokens": 200}
        connection = raw_post(process.port, stream)
        time.sleep(0.5)
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.popen.poll() is None
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 128 + signal.SIGTERM
        connection.close()
    os.close(reading)


def test_a_reader_that_wakes_up_finds_every_line_and_stray_signals_end_nothing(tiny_folder):
    reading, writing = os.pipe()
    with logging_to(writing, tiny_folder) as process:
        os.close(writing)
        log_more_than_a_pipe_holds(process)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGPIPE):
            process.popen.send_signal(number)
            time.sleep(0.1)
            assert call(process, "GET", "/ready")[0].status == 200, number
        process.popen.send_signal(signal.SIGHUP)  # a terminal sends it twice as it closes
        process.popen.send_signal(signal.SIGHUP)
        with open(reading) as log:
            lines = [json.loads(line) for line in log]
        assert process.popen.wait(ENDS) == 0
    events = [line["event"] for line in lines]
    assert events.count("request") == 500 and "log lines dropped" not in events
    assert events.index("draining") < events.index("drained")


@pytest.mark.slow
def test_a_banner_that_nobody_reads_does_not_stop_the_start(tiny_folder):
    reading, writing = os.pipe()
    os.close(reading)
    popen = subprocess.Popen(
        [XDLM, "serve", tiny_folder, "--port", "0"], stdout=writing, stderr=subprocess.DEVNULL
    )
    os.close(writing)
    try:
        time.sleep(6)
        assert popen.poll() is None
    finally:
        popen.terminate()
    assert popen.wait(ENDS) in (0, -signal.SIGTERM)  # the latter where it was not ready yet


def test_lines_without_room_are_counted_and_told_once_there_is_room():
    reading, writing = os.pipe()
    line = "x" * 1023 + "\n"
    out = LineWriter(writing, lambda count: f"dropped {count}\n")
    written = HELD // 1024 + 500
    for _ in range(written):
        out.write(line)
    kept = dropped = 0
    with open(reading) as log:
        while kept + dropped < written:
            told = log.readline()
            if told == line:
                kept += 1
            else:
                dropped += int(told.split()[1])
        assert dropped >= 400
        out.write("after\n")
        assert log.readline() == "after\n"
    out.settle(5)
    out.write("nobody\n")
    out.write("reads\n")
    end = time.monotonic() + 5
    while not out.lost and time.monotonic() < end:
        time.sleep(0.01)
    assert out.lost and out.write("still none\n") == len("still none\n")
    os.close(writing)


def test_a_full_disk_costs_the_line_and_not_the_writer():
    with open("/dev/full", "w") as full:
        out = LineWriter(full.fileno(), lambda count: f"{count}\n")
        out.write("one\n")
        out.settle(2)
        assert not out.lost
