"""Regular expressions as values: equal ones are one number, and each knows how it goes on.

The linear form of an expression (Antimirov 1996) lists, for sets of characters, what is left of it
after one of them. Sets of what is left are the states of an automaton, so bounded repetitions and
intersections need no construction of their own, and a language is explored only as far as texts
of it lead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.constraints.characters import Ranges, ranges_of

Form = tuple[tuple[int, int], ...]
"""Pairs of a set of characters, by its number, and an expression."""

CHARS, CAT, ALT, REPEAT, BOTH = range(5)


class TooComplex(ValueError):
    """A language that exceeds a limit."""


class Expressions:
    """The expressions of one language, each by its number.

    Attributes:
        empty: the language of the empty text.
        never: the language without texts.
        sets: sets of characters, by their number.
    """

    def __init__(self, limit: int) -> None:
        """``limit``: expressions that there may be."""
        self._limit = limit
        self._numbers: dict[tuple, int] = {}
        self._nodes: list[tuple] = []
        self._nullable: list[bool] = []
        self._forms: dict[int, Form] = {}
        self.sets: list[Ranges] = []
        self._set_numbers: dict[Ranges, int] = {}
        self._common: dict[tuple[int, int], int] = {}
        self.never = self._new((ALT,), False)
        self.empty = self._new((REPEAT,), True)

    def _new(self, node: tuple, nullable: bool) -> int:
        found = self._numbers.get(node)
        if found is None:
            found = len(self._nodes)
            if found >= self._limit:
                raise TooComplex(f"needs more than {self._limit} expressions")
            self._numbers[node] = found
            self._nodes.append(node)
            self._nullable.append(nullable)
        return found

    def _set(self, ranges: Ranges) -> int:
        found = self._set_numbers.setdefault(ranges, len(self.sets))
        if found == len(self.sets):
            self.sets.append(ranges)
        return found

    def chars(self, ranges: Iterable[tuple[int, int]]) -> int:
        """One of some characters."""
        found = ranges_of(ranges)
        return self._new((CHARS, self._set(found)), False) if found else self.never

    def text(self, text: str) -> int:
        """Exactly this text."""
        return self.sequence([self.chars([(ord(c), ord(c))]) for c in text])

    def sequence(self, parts: Sequence[int]) -> int:
        """One after the other."""
        found = self.empty
        for part in reversed(parts):
            found = self._cat(part, found)
        return found

    def _cat(self, first: int, rest: int) -> int:
        if self.never in (first, rest):
            return self.never
        if first == self.empty:
            return rest
        if rest == self.empty:
            return first
        return self._new((CAT, first, rest), self._nullable[first] and self._nullable[rest])

    def any_of(self, parts: Iterable[int]) -> int:
        """Any of some."""
        found: set[int] = set()
        for part in parts:
            found |= {*self.alternatives(part)}
        if len(found) == 1:
            return found.pop()
        return self._new((ALT, *sorted(found)), any(self._nullable[part] for part in found))

    def alternatives(self, expression: int) -> tuple[int, ...]:
        """The parts of one that was made by ``any_of``; another alone."""
        kind, *parts = self._nodes[expression]
        return tuple(parts) if kind == ALT else (expression,)

    def repeat(self, part: int, least: int = 0, most: int | None = None) -> int:
        """``least`` to ``most`` times; without a bound where None."""
        if most is not None and most < least:
            return self.never
        if most == 0 or part == self.empty:
            return self.empty
        if part == self.never:
            return self.empty if not least else self.never
        least = 0 if self._nullable[part] else least
        if (least, most) == (1, 1):
            return part
        return self._new((REPEAT, part, least, most), not least)

    def optional(self, part: int) -> int:
        """Once or not at all."""
        return self.any_of((self.empty, part))

    def both(self, one: int, other: int) -> int:
        """Texts of both languages."""
        if self.never in (one, other):
            return self.never
        if one == other:
            return one
        one, other = sorted((one, other))
        return self._new((BOTH, one, other), self._nullable[one] and self._nullable[other])

    def nullable(self, expression: int) -> bool:
        """Whether the empty text is of the language."""
        return self._nullable[expression]

    def form(self, expression: int) -> Form:
        """The linear form."""
        found = self._forms.get(expression)
        if found is None:
            found = self._forms[expression] = self._form(*self._nodes[expression])
        return found

    def _form(self, kind: int, *parts: int) -> Form:
        if kind == CHARS:
            return ((parts[0], self.empty),)
        if kind == CAT:
            first, rest = parts
            found = tuple((s, self._cat(left, rest)) for s, left in self.form(first))
            return found + self.form(rest) if self._nullable[first] else found
        if kind == ALT:
            return tuple({pair: None for part in parts for pair in self.form(part)})
        if kind == BOTH:
            one, other = (self.form(part) for part in parts)
            pairs = ((self._both_sets(s, t), self.both(a, b)) for s, a in one for t, b in other)
            return tuple((s, left) for s, left in pairs if self.sets[s])
        if not parts:
            return ()
        part, least, most = parts
        rest = self.repeat(part, max(0, least - 1), None if most is None else most - 1)
        return tuple((s, self._cat(left, rest)) for s, left in self.form(part))

    def _both_sets(self, one: int, other: int) -> int:
        if one == other:
            return one
        key = (one, other)
        if key not in self._common:
            both = ((max(a, c), min(b, d)) for a, b in self.sets[one] for c, d in self.sets[other])
            self._common[key] = self._set(ranges_of(part for part in both if part[0] <= part[1]))
        return self._common[key]
