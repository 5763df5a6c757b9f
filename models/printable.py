"""Text of files and folders made safe to print: nothing in it can steer a terminal."""

from __future__ import annotations

import json
import unicodedata

STEERING = frozenset("\u200e\u200f\u061c\u2028\u2029" + "".join(map(chr, range(0x202A, 0x202F))))
"""Direction marks and line separators; others of their kind join letters and emoji."""
ISOLATES = frozenset(map(chr, range(0x2066, 0x206A)))


def printable(text: str, keep: str = "") -> str:
    """A text whose control characters, direction marks and lone surrogates are spelled out by
    their numbers.

    Args:
        text: any text.
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _steers(c) else _escaped(c) for c in text)


def json_line(value: object) -> str:
    """A value as JSON in one line, as ``printable`` as a text; letters stay as they are."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if _steers(c) else c for c in text)


def _steers(char: str) -> bool:
    return char in STEERING or char in ISOLATES or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
