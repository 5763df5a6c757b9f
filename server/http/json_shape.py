"""Counts of a JSON text's values, taken before the text is parsed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

from server.http.errors import ApiError

MAX_DEPTH = 32
MAX_VALUES = (1 << 19) + (1 << 16)
"""Enough for 128 prompts of 4,096 token ids."""
FREE_CONTAINERS, BYTES_PER_CONTAINER = 4096, 64
FREE_NAMES, NAMES_PER_CONTAINER = 1024, 16
WINDOW = 1 << 16  # bytes that are looked at without a pause for other threads

BRACKETS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # +1 and -1 as signed bytes
OTHERS = bytes(set(range(256)) - set(b"[{]}"))


@dataclass(frozen=True)
class Shape:
    """Counts of a JSON text's elements outside strings.

    Attributes:
        size: of the text, in bytes.
        depth: nesting of brackets.
        containers: lists and objects.
        names: members of objects.
        values: of all kinds, containers included.
    """

    size: int
    depth: int
    containers: int
    names: int
    values: int

    @classmethod
    def of(cls, text: bytes) -> Shape:
        """Count without recursion and without a loop over bytes in Python. Each window is one
        short call, so that other threads are never kept waiting and little memory is taken.
        """
        at, depth, deepest, inside = 0, 0, 0, False
        containers = names = commas = 0
        while at < len(text):
            window = text[at : at + WINDOW]
            escapes = len(window) - len(window.rstrip(b"\\"))
            if escapes % 2 and len(window) > 1:
                window = window[:-1]  # an escape stays whole
            at += len(window)
            parts = window.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
            outside = b"".join(parts[inside::2])
            inside ^= len(parts) % 2 == 0
            brackets = array("b", outside.translate(BRACKETS, OTHERS))
            deepest = max(deepest, max(accumulate(brackets, initial=depth)))
            depth += sum(brackets)
            containers += outside.count(b"[") + outside.count(b"{")
            names += outside.count(b":")
            commas += outside.count(b",")
        return cls(len(text), deepest, containers, names, containers + commas + 1)

    def check(self) -> None:
        """Refuse a text whose values would take far more time and memory than its bytes.

        Raises:
            ApiError: 400 with both numbers.
        """
        if self.depth > MAX_DEPTH:
            message = f"the body is nested {self.depth} deep; the limit is {MAX_DEPTH}"
            raise ApiError(400, message, code="invalid_json")
        containers = FREE_CONTAINERS + self.size // BYTES_PER_CONTAINER
        for what, count, limit in (
            ("values", self.values, MAX_VALUES),
            (f"lists and objects in {self.size} bytes", self.containers, containers),
            (
                f"names in {self.containers} lists and objects",
                self.names,
                FREE_NAMES + NAMES_PER_CONTAINER * self.containers,
            ),
        ):
            if count > limit:
                message = f"the body holds {count} {what}; the limit is {limit}"
                raise ApiError(400, message, code="limit_exceeded")
