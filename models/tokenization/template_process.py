"""The server's side of a template's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.line_process import LineProcess, Stopped
from models.tokenization import template_worker

__all__ = ["Stopped", "TemplateProcess"]


class TemplateProcess(LineProcess):
    """A process that renders one template."""

    def __init__(self, source: str) -> None:
        """Start it.

        Raises:
            OSError: the machine has no room for it.
        """
        super().__init__(template_worker.PROGRAM, source, template_worker.WALL_SECONDS)

    def put(self, question: bytes, gone: Callable[[], bool]) -> dict[str, Any] | int | Stopped:
        """Have it render a conversation; see ``ask``."""
        return self.ask(question, gone, 16 * template_worker.MOST_TEXT + 64 * len(question))
