"""Log lines: one JSON object each, without local variables, prompts or keys."""

from __future__ import annotations

import sys

import structlog


def configure() -> None:
    """Set structlog up; called once, by the composition root."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
