"""Regular expressions as text: the syntax that ECMA-262 (JSON Schema's) and Python share."""

from __future__ import annotations

from collections.abc import Callable

from server.constraints.characters import LAST, Ranges, inverted, ranges_of
from server.constraints.expressions import Expressions

DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ranges_of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
BLANKS: Ranges = ranges_of([(0x09, 0x0D), (0x20, 0x20)])
BREAKS: Ranges = ranges_of([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
ANY: Ranges = ranges_of([(0, LAST)])
KINDS = {"d": DIGITS, "w": WORD, "s": BLANKS}
KINDS |= {letter.upper(): inverted(ranges) for letter, ranges in KINDS.items()}
SINGLE = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
HEX = {"x": 2, "u": 4}
DEEPEST = 64  # groups within each other
MOST = 1 << 16  # of a repetition


class BadRegex(ValueError):
    """A regular expression that cannot be compiled, and why."""


def parsed(
    expressions: Expressions,
    source: str,
    one_of: Callable[[Ranges], int] | None = None,
    everywhere: bool = False,
) -> int:
    """The expression of a text.

    Args:
        expressions: where it is made.
        source: the text. ``^`` and ``$`` stand at its ends, or those of its alternatives, only.
        one_of: how one of some characters is written; as itself where None.
        everywhere: the text may match anywhere, as JSON Schema's ``pattern`` does; else the whole.

    Raises:
        BadRegex: it is malformed, or more than a regular expression.
        TooComplex: of the expressions.
    """
    reader = _Reader(expressions, source, one_of or expressions.chars)
    return reader.whole(everywhere)


class _Reader:
    def __init__(
        self, expressions: Expressions, source: str, one_of: Callable[[Ranges], int]
    ) -> None:
        self._e, self._source, self._at, self._one_of = expressions, source, 0, one_of

    def whole(self, everywhere: bool) -> int:
        """Alternatives at the outermost level, with anchors."""
        anything = self._e.repeat(self._one_of(ANY)) if everywhere else self._e.empty
        found = []
        while True:
            start, end = self._takes("^"), False
            parts = []
            while (char := self._next()) not in ("", "|"):
                if char == "$" and self._source[self._at + 1 : self._at + 2] in ("", "|"):
                    self._at += 1
                    end = True
                    break
                parts.append(self._piece(0))
            middle = self._e.sequence(parts)
            before, after = (self._e.empty if flag else anything for flag in (start, end))
            found.append(self._e.sequence([before, middle, after]))
            if not self._takes("|"):
                break
        return self._e.any_of(found)

    def _group(self, depth: int) -> int:
        """Alternatives inside a group."""
        if depth > DEEPEST:
            raise self._bad(f"has groups more than {DEEPEST} deep")
        found = []
        while True:
            parts = []
            while self._next() not in ("", "|", ")"):
                parts.append(self._piece(depth))
            found.append(self._e.sequence(parts))
            if not self._takes("|"):
                return self._e.any_of(found)

    def _piece(self, depth: int) -> int:
        """An atom and how often it is repeated."""
        atom = self._atom(depth)
        while (bounds := self._quantifier()) is not None:
            atom = self._e.repeat(atom, *bounds)
        return atom

    def _quantifier(self) -> tuple[int, int | None] | None:
        char = self._next()
        if char in ("*", "+", "?"):
            self._at += 1
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        elif char == "{":
            end = self._source.find("}", self._at)
            low, comma, high = self._source[self._at + 1 : max(end, 0)].partition(",")
            if end < 0 or not _is_count(low) or not (_is_count(high) or not high):
                raise self._bad("has a { that begins no {n}, {n,} or {n,m}; write \\{")
            least = int(low)
            most = None if comma and not high else int(high) if comma else least
            if least > MOST or (most or 0) > MOST:
                raise self._bad(f"repeats {max(least, most or 0)} times; the limit is {MOST}")
            if most is not None and most < least:
                raise self._bad(f"repeats from {least} to {most} times")
            self._at, bounds = end + 1, (least, most)
        else:
            return None
        if self._takes("?"):
            pass  # lazy: the same texts
        elif self._next() == "+":
            raise self._bad("has a possessive quantifier")
        return bounds

    def _atom(self, depth: int) -> int:
        char = self._source[self._at]
        self._at += 1
        if char == "(":
            self._opened()
            found = self._group(depth + 1)
            if not self._takes(")"):
                raise self._bad("has a ( without a )")
            return found
        if char == ".":
            return self._one_of(inverted(BREAKS))
        if char == "[":
            return self._one_of(self._class())
        if char == "\\":
            return self._one_of(self._escape())
        if char == ")":
            raise self._bad("has a ) without a (")
        if char in "^$":
            raise self._bad(f"has {char} inside; anchors stand at the ends")
        if char in "*+?{":
            raise self._bad(f"has {char} with nothing to repeat")
        return self._one_of(((ord(char), ord(char)),))

    def _opened(self) -> None:
        """Read on after the bracket of a group."""
        if not self._takes("?"):
            return
        if self._takes(":"):
            return
        named = self._source.startswith("P<", self._at) or self._source.startswith("<", self._at)
        end = self._source.find(">", self._at)
        name = self._source[self._at : max(end, 0)].removeprefix("P").removeprefix("<")
        if not named or not name.isidentifier():
            mark = self._source[self._at - 1 : self._at + 2]
            raise self._bad(f"has ({mark}: look-around, flags and conditions are not regular")
        self._at = end + 1

    def _class(self) -> Ranges:
        """The characters between square brackets."""
        negated, found, first = self._takes("^"), [], True
        while first or self._next() != "]":
            if not self._next():
                raise self._bad("has a [ without a ]")
            first = False
            low = self._member()
            ranged = self._next() == "-" and self._source[self._at + 1 : self._at + 2] != "]"
            if ranged and len(low) == 1 and low[0][0] == low[0][1]:
                self._at += 1
                high = self._member() if self._next() else ()
                if len(high) != 1 or high[0][0] < low[0][0]:
                    raise self._bad("has a range of characters that is out of order")
                low = ((low[0][0], high[0][1]),)
            found += low
        self._at += 1
        ranges = ranges_of(found)
        return inverted(ranges) if negated else ranges

    def _member(self) -> Ranges:
        char = self._source[self._at]
        self._at += 1
        if char == "\\":
            if self._takes("b"):
                return ((8, 8),)
            return self._escape()
        return ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        """The characters that a backslash begins."""
        char = self._next()
        self._at += 1
        if char in KINDS:
            return KINDS[char]
        if char in HEX:
            return self._code(HEX[char])
        if char in SINGLE:
            code = ord(SINGLE[char])
            return ((code, code),)
        if not char or char.isalnum():
            raise self._bad(f"has \\{char}, which is not supported")
        return ((ord(char), ord(char)),)

    def _code(self, digits: int) -> Ranges:
        if digits == 4 and self._takes("{"):
            end = self._source.find("}", self._at)
            text, self._at = self._source[self._at : max(end, 0)], end + 1
        else:
            text = self._source[self._at : self._at + digits]
            self._at += digits
            if len(text) < digits:
                text = ""
        try:
            code = int(text, 16)
        except ValueError:
            raise self._bad("has an escape without its hexadecimal digits") from None
        if code > LAST or not ranges_of([(code, code)]):
            raise self._bad(f"has \\u{text}, which is no character")
        return ((code, code),)

    def _next(self) -> str:
        return self._source[self._at : self._at + 1]

    def _takes(self, char: str) -> bool:
        if self._next() != char:
            return False
        self._at += 1
        return True

    def _bad(self, reason: str) -> BadRegex:
        return BadRegex(f"{reason} (character {min(self._at, len(self._source))})")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
