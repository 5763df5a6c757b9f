"""Values of settings: those that would be taken for something else are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from server.http.api_keys import Keys

WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})
"""Texts that stand for true or false."""
LARGEST = 2**53
"""Of all whole numbers: beyond it, floating point skips some."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def of_its_kind(kind: Any, given: Any) -> Any:
    """A value that Pydantic may look at.

    Args:
        kind: the annotation of its field.
        given: from a file, a variable or a flag.

    Raises:
        ValueError: Pydantic would take it for something else, or it means nothing. Does not tell
            the value.
    """
    if given is None:
        raise ValueError("has no value; leave it out for its default")
    if isinstance(given, Mapping):
        raise ValueError("must not be a mapping")
    if isinstance(given, bytes):
        raise ValueError("must be a text")
    listed = isinstance(given, list | tuple | set | frozenset)
    if listed and not (kind == list[str] or Keys in (kind, *get_args(kind))):
        raise ValueError("must be one value, not a list")
    if isinstance(given, bool) and kind is not bool:
        raise ValueError("must not be true or false")
    said = isinstance(given, str) and given.lower() in WORDS
    if kind is bool and not (isinstance(given, bool) or said):
        raise ValueError("must be true or false")
    digits = len(given.strip()) > len(str(LARGEST)) if isinstance(given, str) else False
    if kind is int and (digits or (isinstance(given, int | float) and abs(given) > LARGEST)):
        raise ValueError(f"must lie between {-LARGEST} and {LARGEST}")
    texts = given if listed else [given]
    if any(isinstance(text, str) and CONTROL.search(text) for text in texts):
        raise ValueError("must hold no control characters")
    return given


def keys(given: Any) -> Any:
    """Keys from a list, or from a text with commas between."""
    if isinstance(given, str):
        given = given.split(",")
    if isinstance(given, Keys):
        return given
    if not isinstance(given, list):
        raise ValueError("expected keys: a list, or a text with commas between")
    return Keys.of(given)


def keys_of_file(given: Any) -> Any:
    """Keys from the file of that path."""
    if isinstance(given, Keys):
        return given
    if not given or not isinstance(given, str | Path):
        raise ValueError("expected the path of a file")
    return Keys.read(Path(given))


def names(given: Any) -> Any:
    """Names from a list, or from a text with commas between."""
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ValueError("expected names: a list, or a text with commas between")
    found = [name.strip() for name in given]
    if not all(found):
        raise ValueError("a name must not be empty")
    return found


def is_whole_url(text: str) -> bool:
    """Whether a text is a URL of HTTP with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
