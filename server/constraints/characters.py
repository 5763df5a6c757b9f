"""Sets of characters as ranges of code points, and their UTF-8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
LIMITS = ((0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST))
"""Characters of two, three and four bytes."""

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of code points, ascending, with gaps between."""
Bytes = tuple[tuple[int, int], ...]
"""A range of values for each byte of a character."""


def ranges_of(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges, in order and joined; surrogates are no characters and left out."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        elif low <= high:
            found.append((low, high))
    first, last = SURROGATES
    return (
        tuple(
            part
            for low, high in found
            for part in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if part[0] <= part[1]
        )
        if any(low <= last and high >= first for low, high in found)
        else tuple(found)
    )


def inverted(ranges: Ranges) -> Ranges:
    """All other characters."""
    edges = [-1, *(edge for part in ranges for edge in part), LAST + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return ranges_of((low + 1, high - 1) for low, high in gaps if low + 1 <= high - 1)


def common(one: Ranges, other: Ranges) -> Ranges:
    """Characters that are in both."""
    both = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return ranges_of(part for part in both if part[0] <= part[1])


@cache
def utf8(low: int, high: int) -> tuple[Bytes, ...]:
    """The byte sequences of a range of characters from U+0080 on, as ranges byte by byte.

    Where sequences of two ranges share a first byte, it stands alone in both.
    """
    found: list[Bytes] = []
    for first, last in LIMITS:
        if (begin := max(low, first)) <= (end := min(high, last)):
            found += _sequences(chr(begin).encode(), chr(end).encode())
    return tuple(found)


def _sequences(low: bytes, high: bytes) -> Iterator[Bytes]:
    """Sequences between two of one length, both inclusive."""
    if len(low) == 1:
        yield ((low[0], high[0]),)
        return
    first, last = low[0], high[0]
    if first == last:
        for rest in _sequences(low[1:], high[1:]):
            yield ((first, first), *rest)
        return
    lowest, highest = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    if low[1:] != lowest:
        for rest in _sequences(low[1:], highest):
            yield ((first, first), *rest)
        first += 1
    if high[1:] != highest:
        last -= 1
    if first <= last:
        yield ((first, last), *((0x80, 0xBF),) * (len(low) - 1))
    if high[1:] != highest:
        for rest in _sequences(lowest, high[1:]):
            yield ((high[0], high[0]), *rest)
