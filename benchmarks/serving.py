"""A real ``xdlm serve`` for a benchmark, in a process of its own on loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[str]

    def resources(self) -> dict[str, float]:
        """Memory, file descriptors and threads of the process."""
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return {
            "rss_mib": round(pages * os.sysconf("SC_PAGESIZE") / (1 << 20), 2),
            "fds": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
        }


def metrics(server: Server) -> dict[str, float]:
    """All series by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@contextmanager
def serving(checkpoint: str, threads: int = 1, /, **variables: str) -> Iterator[Server]:
    """Serve until the block ends; log lines are not kept."""
    command = [str(Path(sys.executable).with_name("xdlm")), "serve", checkpoint, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", str(threads)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    output = ""
    while "curl" not in output:
        line = process.stdout.readline()
        assert line, "the server did not start"
        output += line
    found = re.search(r"http://127\.0\.0\.1:(\d+)", output)
    assert found
    try:
        yield Server(int(found[1]), process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
