"""A machine that runs out of something."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from server.http.rate_limit import Rates
from tests.support.fork_server import ForkedPopen
from tests.support.http import call
from tests.support.processes import XDLM, Process, serving
from tests.support.sockets import CANARY, read_all, send

FEW = 64


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Processes that are started meanwhile may open few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_row_31_no_descriptors_left(tiny_folder):
    """New connections wait; those that are there are served, and the others once there is room."""
    with ExitStack() as stack:
        with few_descriptors():
            process = stack.enter_context(serving(str(tiny_folder)))
        early = send(process.port, {**CANARY, "steps": 100}, headers="Connection: close\r\n")
        assert call(process, "GET", "/ready")[0].status == 200
        address = ("127.0.0.1", process.port)
        idle = [socket.create_connection(address, timeout=5) for _ in range(FEW + 20)]
        time.sleep(1.5)
        assert b" 200 OK" in read_all(early)[:20]
        for connection in idle:
            connection.close()
        assert call(process, "POST", "/v1/completions", CANARY)[0].status == 200
        assert process.popen.poll() is None
    refused = [line for line in process.lines() if line["event"] == "event loop"]
    assert 1 <= len(refused) < 40 and "socket.accept" in refused[0]["what"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_row_31_log_on_a_full_disk(tiny_folder):
    """Lines are lost, requests are not."""
    with open("/dev/full", "w") as full:
        popen = ForkedPopen(
            [XDLM, "serve", str(tiny_folder), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
        )
    try:
        assert popen.stdout is not None
        told = ""
        while "curl" not in told:
            told += popen.stdout.readline()
        port = int(told.split("http://127.0.0.1:")[1].split(".")[0].split("/")[0])
        process = Process(port, popen)
        for path in ("/v1/completions", "/v1/nowhere"):
            response, _ = call(process, "POST", path, CANARY)
            assert response.status == (200 if "comp" in path else 404)
    finally:
        popen.kill()
        popen.communicate()


def test_row_31_a_clock_that_jumps(tiny_folder):
    """No timer reads the wall clock: modules of the server name it for dates alone."""
    root = Path(__file__).parents[2] / "server"
    users = {p.name for p in root.rglob("*.py") if "time.time()" in p.read_text()}
    named = {"base.py", "score.py", "context.py", "models.py", "image.py"}
    assert users <= named | {"decisions.py", "responses.py"}
    now = [1000.0]
    rates = Rates(60, 0, clock=lambda: now[0])
    for _ in range(60):
        assert rates.wait(b"") == 0
    assert rates.wait(b"") == 1
    now[0] += 3600
    assert [bool(rates.wait(b"")) for _ in range(61)] == [False] * 60 + [True]


def test_row_31_no_names_are_looked_up(tiny_folder):
    """Requests are answered where no name can be resolved: nothing is fetched."""
    unshare = shutil.which("unshare")
    namespace = [unshare, "--net", "--map-root-user"] if unshare else []
    probe = subprocess.run([*namespace, "true"], capture_output=True)
    if not namespace or probe.returncode:
        pytest.skip("needs a network namespace")
    code = (
        "import sys; from models.checkpoints.load import find_checkpoint, load_checkpoint\n"
        "load_checkpoint(find_checkpoint(sys.argv[1]))"
    )
    done = subprocess.run(
        [*namespace, sys.executable, "-c", code, str(tiny_folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode == 0, done.stderr
