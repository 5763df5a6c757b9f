"""Servers for the clients of others: a tiny checkpoint that answers at once, and ``stories``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from tests.support.caller import write_caller
from tests.support.serving import Served, make_engine, run_server, settings_of, write_tiny

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = ROOT / ".venv-clients" / "bin"


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory) -> Iterator[Served]:
    """A tiny random model, named ``tiny``, with the chat template of ``stories``."""
    folder = write_tiny(tmp_path_factory.mktemp("clients") / "tiny")
    shutil.copy(BUNDLED / "stories" / "tokenizer_config.json", folder)
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


@pytest.fixture(scope="session")
def stories() -> Iterator[Served]:
    """The checkpoint that ships."""
    checkpoint = load_checkpoint(BUNDLED / "stories")
    yield from run_server(make_engine(checkpoint), settings_of(checkpoints=["stories"]))


@pytest.fixture(scope="session")
def caller(tmp_path_factory) -> Iterator[Served]:
    """A tiny checkpoint whose vocabulary has calls of a tool."""
    loaded = write_caller(tmp_path_factory.mktemp("calls") / "caller")
    yield from run_server(make_engine(loaded), settings_of())


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path) -> Program:
    """Runs a client's own command in an empty folder; fails with what it said."""

    def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        # no hub, no telemetry, no home: a client has the server and nothing else
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OTEL_SDK_DISABLED": "true"}
        quiet |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGCHAIN_TRACING_V2": "false"}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **quiet, **environment},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return done

    return run


@pytest.fixture
def report(program) -> Callable[..., Any]:
    """Runs a program that prints what it saw as JSON on its last line."""

    def run(*command: str | Path, **environment: str) -> Any:
        return json.loads(program(*command, **environment).stdout.splitlines()[-1])

    return run
