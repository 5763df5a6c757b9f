"""A tiny real checkpoint on disk, and a real server around it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from models.bundled import BUNDLED
from models.checkpoints.load import Checkpoint, load_checkpoint
from tests.support.caller import write_caller
from tests.support.serving import Served, make_engine, run_server, settings_of, write_tiny


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Lines of requests that went well would be all over the report."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> Checkpoint:
    return load_checkpoint(tiny_folder)


@pytest.fixture(scope="module")
def served(tiny) -> Iterator[Served]:
    yield from run_server(make_engine(tiny), settings_of())


@pytest.fixture(scope="session")
def tiny_chatty(tmp_path_factory) -> Checkpoint:
    """A checkpoint with a chat template."""
    folder = write_tiny(tmp_path_factory.mktemp("chat") / "tiny")
    shutil.copy(BUNDLED / "stories" / "tokenizer_config.json", folder)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def chatty(tiny_chatty) -> Iterator[Served]:
    """A server whose checkpoint has a chat template."""
    yield from run_server(make_engine(tiny_chatty), settings_of())


@pytest.fixture(scope="module")
def caller(tmp_path_factory) -> Iterator[Served]:
    """A server whose checkpoint has a chat template with tools."""
    loaded = write_caller(tmp_path_factory.mktemp("calls") / "caller")
    yield from run_server(make_engine(loaded), settings_of())
