"""Errors of checkpoints: an unsupported config, and a checkpoint that cannot be served."""

from __future__ import annotations

import re

from models.printable import printable

LONGEST_MESSAGE = 500  # characters


class UnsupportedConfig(ValueError):
    """A ``config.json`` that asks for something its architecture does not do."""


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message is one line, whatever names files hold."""

    def __init__(self, message: str) -> None:
        line = printable(" ".join(re.split("[\r\n\t]", message)))
        if len(line) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2 - 2
            line = f"{line[:half]} … {line[-half:]}"
        super().__init__(line)
