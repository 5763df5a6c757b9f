"""A cluster of two replicas on this machine, as ``xdlm cluster`` starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

XDLM = Path(sys.executable).parent / "xdlm"
KEY = "sk-cluster-0123456789"
LIMITS = {"XDLM_MAX_WAITING": "16", "XDLM_MAX_RUNNING": "8", "XDLM_THREADS": "1"}
START_SECONDS = 240  # on a busy machine of two cores; half a minute on an idle one


@dataclass(frozen=True)
class Cluster:
    """It answers on ``url``; ``address`` is Ray's."""

    url: str
    address: str

    def request(self, path: str, body: dict[str, Any] | None = None, **headers: str):
        """An open response; to be closed."""
        told = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, told)
        return urllib.request.urlopen(request, timeout=120)

    def read(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> str:
        """The whole answer."""
        with self.request(path, body, **headers) as response:
            return response.read().decode()

    def replicas(self) -> set[str]:
        """Marks of the replicas that answer."""
        return set(re.findall(r'replica="([0-9a-f]{8})"', self.read("/metrics")))

    @property
    def port(self) -> int:
        """Of its address."""
        return int(self.url.rpartition(":")[2])

    def deploy(self, *args: str, **variables: str) -> None:
        """Deploy once more: checkpoints and flags."""
        where = ("--address", self.address, "--detach", "--port", str(self.port))
        done = subprocess.run(
            [XDLM, "cluster", *where, *args],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert done.returncode == 0, done.stderr


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "XDLM_API_KEYS": KEY, **LIMITS, **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def replica_processes(model: str = "stories") -> list[int]:
    """Processes of a model's replicas on this machine."""
    name = rb"ray::(ServeReplica:xdlm:%b|SERVE_REPLICA::xdlm#%b#)".replace(b"%b", model.encode())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if re.match(name, (folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended meanwhile
    return sorted(found)


def wait_until(condition, seconds: float) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.2)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    assert not replica_processes(), "another cluster runs on this machine"
    said = tmp_path_factory.mktemp("cluster") / "said"
    port = str(free_port())
    with said.open("w") as file:
        process = subprocess.Popen(
            [XDLM, "cluster", "stories", "--replicas", "2", "--port", port],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
    try:
        wait_until(
            lambda: "Listening" in said.read_text() or process.poll() is not None, START_SECONDS
        )
        found = re.search(r"Ray at (\S+)", said.read_text())
        assert found, said.read_text()
        yield Cluster(f"http://127.0.0.1:{port}", found.group(1))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
