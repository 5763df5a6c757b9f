"""Tokens that are only parts of characters: their bytes, and the characters that they make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from server.trajectories.checks import list_of, object_of, whole_of

Parts = dict[int, bytes]
"""Bytes by position."""
MOST = 64  # bytes of a token
PLACES = 7  # digits of a position


def parts_of(given: Any, where: str, positions: int) -> Parts:
    """Bytes by position as a record has them.

    Raises:
        ValueError: they are none, or not on the canvas; says where.
    """
    found: Parts = {}
    for name, data in object_of({} if given is None else given, where).items():
        at = int(name) if name.isascii() and name.isdigit() and len(name) <= PLACES else -1
        if not 0 <= at < positions:
            raise ValueError(f"{where} names no position of the canvas: {name[:20]!r}")
        data = list_of(data, where, 1, MOST)
        found[at] = bytes(whole_of(one, where, 0, 255) for one in data)
    return found


def joined(texts: Sequence[str], parts: Parts) -> list[str]:
    """Texts of all positions; each character of several tokens stands at the first of them."""
    shown = list(texts)
    if not parts:
        return shown
    places = sorted(parts)
    breaks = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(places)) if b > a + 1), len(places)]
    for first, last in pairwise(breaks):
        _join(shown, parts, places[first:last])
    return shown


def _join(shown: list[str], parts: Parts, places: Sequence[int]) -> None:
    """Give each character of neighbouring positions to the first of its tokens."""
    owners = [at for at in places for _ in parts[at]]
    data = b"".join(parts[at] for at in places)
    for at in places:
        shown[at] = ""
    start = 0
    while start < len(data):
        size = next((n for n in (1, 2, 3, 4) if _whole(data[start : start + n], n)), 0)
        if size:
            shown[owners[start]] += data[start : start + size].decode()
        start += size or 1


def _whole(data: bytes, size: int) -> bool:
    """Whether bytes are one character of UTF-8."""
    try:
        return len(data) == size and len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
