"""The line that ``xdlm --version`` prints."""

from __future__ import annotations

from importlib.metadata import version


def version_line() -> str:
    """The name and the version of the installed package."""
    return f"xdlm-serve {version('xdlm-serve')}"
