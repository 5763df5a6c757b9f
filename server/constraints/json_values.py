"""JSON as regular expressions: texts, numbers and values up to a depth.

Blanks: none, or one after a colon or a comma, so that short canvases are enough.
"""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cached_property
from typing import Any

from server.constraints.characters import Ranges, common, ranges_of
from server.constraints.expressions import Expressions
from server.constraints.regex import ANY, DIGITS

PLAIN: Ranges = ranges_of([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)])
"""Characters that stand for themselves in a JSON text."""
ESCAPES = {'"': '"', "\\": "\\", "\n": "n", "\t": "t", "\r": "r", "\b": "b", "\f": "f"}
"""Characters that are written after a backslash; other control characters are not written."""
DEPTH = 3
"""Values within each other where a schema does not say what is there."""
LONGEST = 15
"""Digits before a point, and after one, where no bound asks for more: a double holds so many."""


class Json:
    """The expressions of JSON values."""

    def __init__(self, expressions: Expressions) -> None:
        """Made among some expressions."""
        self.e = expressions
        self.digits = expressions.chars(DIGITS)
        self._values: dict[int, int] = {}
        self._objects: dict[int, int] = {}

    @cached_property
    def colon(self) -> int:
        """Between a key and its value."""
        return self._mark(":")

    @cached_property
    def comma(self) -> int:
        """Between values."""
        return self._mark(",")

    def _mark(self, mark: str) -> int:
        return self.e.sequence([self.e.text(mark), self.e.optional(self.e.text(" "))])

    def one_of(self, characters: Ranges) -> int:
        """One of some characters, as it is written within quotation marks."""
        escaped = [
            self.e.text("\\" + written)
            for char, written in ESCAPES.items()
            if common(characters, ((ord(char), ord(char)),))
        ]
        return self.e.any_of([self.e.chars(common(characters, PLAIN)), *escaped])

    def quoted(self, content: int) -> int:
        """A text of this content."""
        mark = self.e.text('"')
        return self.e.sequence([mark, content, mark])

    def characters(self, least: int = 0, most: int | None = None) -> int:
        """The content of a text of any characters, as many as that."""
        return self.e.repeat(self.one_of(ANY), least, most)

    def literal(self, value: Any) -> int:
        """Exactly this value."""
        if isinstance(value, list):
            return self.listed([self.literal(part) for part in value])
        if isinstance(value, dict):
            parts = [self.member(key, self.literal(part)) for key, part in value.items()]
            return self.braced(self.joined(parts))
        return self.e.text(json.dumps(value, ensure_ascii=False))

    def joined(self, parts: list[int]) -> int:
        """One after the other with commas between."""
        between = [part for one in parts for part in (self.comma, one)]
        return self.e.sequence(between[1:])

    def member(self, key: str, value: int) -> int:
        """A key and its value."""
        return self.e.sequence([self.literal(key), self.colon, value])

    def braced(self, content: int) -> int:
        """An object of these members."""
        return self.e.sequence([self.e.text("{"), content, self.e.text("}")])

    def listed(self, parts: list[int]) -> int:
        """An array of exactly these."""
        return self.bracketed(self.joined(parts))

    def bracketed(self, content: int) -> int:
        """An array of these items."""
        return self.e.sequence([self.e.text("["), content, self.e.text("]")])

    def many(self, part: int, least: int = 0, most: int | None = None) -> int:
        """From ``least`` to ``most`` of one kind, with commas between."""
        if most == 0:
            return self.e.empty
        more = self.e.sequence([self.comma, part])
        rest = self.e.repeat(more, max(0, least - 1), None if most is None else most - 1)
        found = self.e.sequence([part, rest])
        return found if least else self.e.optional(found)

    def mapping(self, key: int, value: int) -> int:
        """An object of any members of one kind."""
        return self.braced(self.many(self.e.sequence([key, self.colon, value])))

    def integer(self) -> int:
        """A whole number."""
        sign = self.e.optional(self.e.text("-"))
        return self.e.any_of([self.e.text("0"), self.e.sequence([sign, self._whole(LONGEST)])])

    def number(self, whole: int | None = LONGEST, fraction: int = LONGEST) -> int:
        """A decimal number without an exponent, with at most so many digits before the point and
        after it.
        """
        sign = self.e.optional(self.e.text("-"))
        before = self.e.any_of([self.e.text("0"), self._whole(whole)])
        after = self.e.sequence([self.e.text("."), self.e.repeat(self.digits, 1, fraction)])
        return self.e.sequence([sign, before, self.e.optional(after)])

    def _whole(self, digits: int | None) -> int:
        """A whole number from 1 on, of at most so many digits."""
        more = self.e.repeat(self.digits, 0, None if digits is None else digits - 1)
        return self.e.sequence([self.e.chars(((0x31, 0x39),)), more])

    def scalars(self) -> list[int]:
        """Every value that holds no others."""
        words = [self.e.text(word) for word in ("true", "false", "null")]
        return [*words, self.number(), self.quoted(self.characters())]

    def value(self, depth: int = DEPTH) -> int:
        """Any value with up to ``depth`` objects and arrays within each other."""
        if depth not in self._values:
            found = self.scalars()
            if depth:
                inner = self.value(depth - 1)
                found += [self.bracketed(self.many(inner)), self.object(depth)]
            self._values[depth] = self.e.any_of(found)
        return self._values[depth]

    def object(self, depth: int = DEPTH) -> int:
        """Any object, itself counted in the depth."""
        if depth not in self._objects:
            key = self.quoted(self.characters())
            self._objects[depth] = self.mapping(key, self.value(depth - 1))
        return self._objects[depth]

    # Ranges --------------------------------------------------------------------------------------

    def between(
        self, low: Decimal | None, high: Decimal | None, opens: tuple[bool, bool], whole: bool
    ) -> int:
        """Numbers between two bounds.

        Args:
            low, high: the bounds; None for none.
            opens: whether each is itself excluded.
            whole: only whole numbers.
        """
        zero = Decimal(0)
        found = []
        if high is None or high > 0 or (high == 0 and not opens[1]):
            least, excluded = (low, opens[0]) if low is not None and low >= 0 else (zero, False)
            found.append(self._magnitude(least, high, (excluded, opens[1]), whole))
        if low is None or low < 0:
            below = high is not None and high < 0
            least, excluded = (-high, opens[1]) if below and high is not None else (zero, True)
            most = None if low is None else -low
            size = self._magnitude(least, most, (excluded, opens[0]), whole)
            found.append(self.e.sequence([self.e.text("-"), size]))
        return self.e.any_of(found)

    def _magnitude(
        self, low: Decimal, high: Decimal | None, opens: tuple[bool, bool], whole: bool
    ) -> int:
        """Numbers from 0 on between two bounds, without a sign."""
        first, last = int(low), None if high is None else int(high)
        some = self.e.repeat(self.digits, 1)
        parts = []
        if whole:
            begin = first + (low > first or (opens[0] and low == first))
            beyond = last is not None and opens[1] and high == last
            return self._integers(begin, None if last is None else last - beyond)
        point = self.e.text(".")
        above = self._digits_from(low - first, opens[0])
        if last is not None and last == first and high is not None:
            below = self._digits_to(high - last, opens[1])
            number = self.e.sequence([point, self.e.both(above, below)])
            exact = low == first and not opens[0] and (high > low or not opens[1])
            parts.append(self.e.sequence([self.e.text(str(first)), number]))
            parts += [self.e.text(str(first))] if exact else []
            return self.e.any_of(parts)
        parts.append(self.e.sequence([self.e.text(str(first)), point, above]))
        if low == first and not opens[0]:
            parts.append(self.e.text(str(first)))
        inner = self._integers(first + 1, None if last is None else last - 1)
        tail = self.e.optional(self.e.sequence([point, some]))
        parts.append(self.e.sequence([inner, tail]))
        if high is not None and last is not None:
            below = self._digits_to(high - last, opens[1])
            parts.append(self.e.sequence([self.e.text(str(last)), point, below]))
            if high > last or not opens[1]:
                parts.append(self.e.text(str(last)))
        return self.e.any_of(parts)

    def _digits_from(self, least: Decimal, excluded: bool) -> int:
        """Digits after a point that make at least a fraction, or more."""
        digits, some = _digits(least), self.e.repeat(self.digits)
        positive = self.e.sequence(
            [self.e.repeat(self.e.text("0")), self.e.chars(((0x31, 0x39),)), some]
        )
        found = positive if excluded else some
        for digit in reversed(digits):
            higher = self.e.chars(((0x31 + digit, 0x39),))
            found = self.e.any_of(
                [
                    self.e.sequence([self.e.text(str(digit)), found]),
                    self.e.sequence([higher, some]),
                ]
            )
        return found if digits or excluded else self.e.repeat(self.digits, 1)

    def _digits_to(self, most: Decimal, excluded: bool) -> int:
        """Digits after a point, at least one, that make at most a fraction, or less."""
        digits, some = _digits(most), self.e.repeat(self.digits)
        zeros = self.e.repeat(self.e.text("0"))
        found = self.e.never if excluded else zeros
        for digit in reversed(digits):
            lower = self.e.chars(((0x30, 0x2F + digit),))
            found = self.e.any_of(
                [
                    self.e.empty,
                    self.e.sequence([self.e.text(str(digit)), found]),
                    self.e.sequence([lower, some]),
                ]
            )
        return self.e.both(found, self.e.repeat(self.digits, 1))

    def _integers(self, low: int, high: int | None) -> int:
        """Whole numbers from 0 on between two inclusive bounds."""
        if high is not None and high < low:
            return self.e.never
        lowest = str(low)
        found = []
        sizes = range(len(lowest), len(lowest) + 1 if high is None else len(str(high)) + 1)
        for size in sizes:
            begin = lowest if size == len(lowest) else "1" + "0" * (size - 1)
            end = str(high) if high is not None and size == len(str(high)) else "9" * size
            found.append(self._same_size(begin, end))
        if high is None:
            more = self.e.repeat(self.digits, len(lowest))
            found.append(self.e.sequence([self.e.chars(((0x31, 0x39),)), more]))
        return self.e.any_of(found)

    def _same_size(self, low: str, high: str) -> int:
        """Numbers of one size between two."""
        if not low.strip("0") and not high.strip("9"):  # all of them
            return self.e.repeat(self.digits, len(low), len(low))
        first, last = int(low[0]), int(high[0])
        rest = len(low) - 1
        if first == last:
            return self.e.sequence([self.e.text(low[0]), self._same_size(low[1:], high[1:])])
        found = [
            self.e.sequence([self.e.text(low[0]), self._same_size(low[1:], "9" * rest)]),
            self.e.sequence([self.e.text(high[0]), self._same_size("0" * rest, high[1:])]),
        ]
        if first + 1 < last:
            middle = self.e.chars(((0x31 + first, 0x2F + last),))
            found.append(self.e.sequence([middle, self.e.repeat(self.digits, rest, rest)]))
        return self.e.any_of(found)


def _digits(fraction: Decimal) -> list[int]:
    """The digits of a fraction of one, after its point."""
    text = format(fraction, "f").partition(".")[2].rstrip("0")
    return [int(digit) for digit in text]
