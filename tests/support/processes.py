"""The ``xdlm`` command and servers in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fork_server import ForkedPopen

XDLM = Path(sys.executable).parent / "xdlm"
"""The console script; most tests use ``xdlm`` and ``serving``, which fork in its place."""


def xdlm(
    *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with ForkedPopen(
        [XDLM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env
    ) as popen:
        try:
            said, complained = popen.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            popen.kill()
            raise
    return subprocess.CompletedProcess(popen.args, popen.returncode, said, complained)


@dataclass
class Process:
    """A running ``xdlm serve``; ``stderr`` is there once it has stopped."""

    port: int
    popen: subprocess.Popen[str]
    stderr: str = ""

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]


def port_of(popen: subprocess.Popen[str]) -> int:
    """The port that a server prints when it listens, once it has printed its examples."""
    assert popen.stdout is not None
    said = ""
    while "curl" not in said:
        line = popen.stdout.readline()
        assert line, popen.stderr.read() if popen.stderr is not None else said
        said += line
    found = re.search(r"http://[\d.]+:(\d+)", said)
    assert found, said
    return int(found[1])


@contextmanager
def serving(*args: str | Path, port: int = 0, **variables: str) -> Iterator[Process]:
    """Run ``xdlm serve`` until the block ends, then read what it wrote."""
    popen = ForkedPopen(
        [XDLM, "serve", *args, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    process = Process(port_of(popen), popen)
    try:
        yield process
    finally:
        popen.send_signal(signal.SIGTERM)
        process.stderr = popen.communicate(timeout=30)[1]
