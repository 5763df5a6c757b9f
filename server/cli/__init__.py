"""The command line: each command builds its components. Shared options are in ``common``."""

from __future__ import annotations

import server.cli.openmp  # noqa: F401

# isort: split
import sys

from models.checkpoints.malloc import keep_freed_memory
from server.cli.collections import without_collections
from server.cli.version import version_line

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``xdlm`` console script. Errors of a command line are one line."""
    if sys.argv[1:] == ["--version"]:
        print(version_line())
        return
    with without_collections():  # these import PyTorch, which takes seconds
        import typer

        from server.cli.app import app
        from server.cli.common import say

    keep_freed_memory()
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 1
    except typer.TyperException as error:
        code = getattr(error, "exit_code", 2)
        message = str(getattr(error, "format_message", error.__str__)())
        if len(sys.argv) > 1:
            say(" ".join(message.split()))
        else:
            print(message, file=sys.stderr)  # the help
    sys.exit(code)
