"""Files that a user gives; what is wrong with one is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.errors import Refusal


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        Refusal: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Refusal(f"{path} is not UTF-8") from None


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """While the block reads a file that this program has written.

    Raises:
        Refusal: it holds something else.
    """
    try:
        yield
    except Refusal:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Refusal(f"{path} is damaged: {error}") from None
