"""Log lines: one JSON object each, without local variables, prompts or keys."""

from __future__ import annotations

import atexit
import sys
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from server.log_writer import LineWriter, never_blocking

LAST_SECONDS = 1.0
"""Longest wait for the last lines at the end of the process."""

_writers: dict[int, LineWriter] = {}


class _Logger:
    """Structlog's logger; it takes no lock, since signal handlers log too."""

    def __init__(self, out: LineWriter) -> None:
        self._out = out

    def msg(self, line: str) -> None:
        """Take a line of any level."""
        self._out.write(line + "\n")

    debug = info = warning = error = critical = exception = msg


def configure() -> None:
    """Set structlog up; called once, by the composition root."""
    out = _writer(2)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: _Logger(out),
    )


def take_over_output() -> None:
    """Write stdout and stderr in threads, so that a slow reader cannot block the server."""
    never_blocking(2)
    sys.stdout, sys.stderr = _writer(1), _writer(2)


def settle() -> None:
    """Wait for the last lines to be written, up to ``LAST_SECONDS`` for each writer."""
    for writer in tuple(_writers.values()):
        writer.settle(LAST_SECONDS)


def _writer(descriptor: int) -> LineWriter:
    if descriptor not in _writers:
        if not _writers:
            atexit.register(settle)
        _writers[descriptor] = LineWriter(descriptor, _dropped)
    return _writers[descriptor]


def _dropped(count: int) -> str:
    """The line that reports dropped lines."""
    line: dict[str, Any] = {"count": count, "event": "log lines dropped", "level": "warning"}
    line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps(line).decode() + "\n"
