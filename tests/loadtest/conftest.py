"""A stub with known delays, and the real server on a tiny checkpoint, each in its own process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.commands import app
from tests.support.fork_server import ForkedPopen
from tests.support.paths import ROOT
from tests.support.serving import write_tiny


@dataclass(frozen=True)
class Stubbed:
    """A running stub."""

    url: str
    log: Path

    def entries(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def requests(self) -> dict[str, dict]:
        """Log entries of the stub by request id."""
        return {entry["id"]: entry for entry in self.entries() if "id" in entry}


@contextmanager
def stub_server(folder: Path, *options: object) -> Iterator[Stubbed]:
    port, log = folder / "port", folder / "log"
    log.touch()
    command = [sys.executable, "-m", "tests.loadtest.stub", str(port), str(log), *map(str, options)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            while not port.exists() or not port.read_text():
                assert process.poll() is None
                time.sleep(0.02)
            yield Stubbed(f"http://127.0.0.1:{port.read_text()}", log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Iterator[Stubbed]:
    with stub_server(tmp_path_factory.mktemp("stub")) as found:
        yield found


@dataclass(frozen=True)
class Server:
    """``xdlm serve`` and its log."""

    url: str
    log: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A tiny text model with a chat template, and the bundled one that draws."""
    folder = tmp_path_factory.mktemp("served")
    tiny = write_tiny(folder / "tiny")
    template = ROOT / "models" / "bundled" / "stories" / "tokenizer_config.json"
    (tiny / "tokenizer_config.json").write_bytes(template.read_bytes())
    log = folder / "log"
    command = ["xdlm", "serve", str(tiny), "digits"]
    command += ["--port", "0", "--threads", "1", "--max-waiting", "8"]
    with log.open("w") as errors:
        process = ForkedPopen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        found = None
        while found is None:
            line = process.stdout.readline()
            assert line, log.read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        yield Server(found.group(), log)
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


Command = Callable[..., str]


@pytest.fixture
def command() -> Command:
    """Runs ``xdlm-loadtest`` in this process; all that it said, on one line."""

    def run(*args: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(arg) for arg in args])
        assert done.exit_code == code, (done.output, done.exception)
        return " ".join(done.output.split())

    return run
