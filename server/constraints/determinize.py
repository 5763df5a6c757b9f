"""Regular expressions to deterministic automata over the bytes of UTF-8."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.constraints.characters import Bytes, utf8
from server.constraints.expressions import Expressions, TooComplex

ASCII = 0x7F
LOOK = 256  # states between two looks at the clock


@dataclass
class Automaton:
    """A deterministic automaton in lists; the text begins in state 0.

    Attributes:
        accepting: states in which a text may end.
        edges: (state, low, high, state): the bytes that lead from one to the other.
        states: their number.
    """

    accepting: list[int] = field(default_factory=list)
    edges: list[tuple[int, int, int, int]] = field(default_factory=list)
    states: int = 0


def automaton_of(
    expressions: Expressions, language: int, most_states: int, seconds: float
) -> Automaton:
    """The automaton of an expression.

    Args:
        expressions: the expressions.
        language: one of them.
        most_states: limit of the automaton, states within characters included.
        seconds: limit of the time.

    Raises:
        TooComplex: it exceeds a limit.
    """
    return _Builder(expressions, most_states, time.monotonic() + seconds, seconds).run(language)


class _Builder:
    """Sets of expressions are states; so are sets of byte sequences, within a character."""

    def __init__(self, expressions: Expressions, most: int, until: float, seconds: float) -> None:
        self._expressions, self._most, self._until = expressions, most, until
        self._seconds = seconds
        self._made = Automaton()
        self._numbers: dict[frozenset[int], int] = {}
        self._within: dict[tuple, int] = {}
        self._pending: list[frozenset[int]] = []

    def run(self, language: int) -> Automaton:
        self._state(frozenset(self._expressions.alternatives(language)))
        done = 0
        while self._pending:
            if done % LOOK == 0 and time.monotonic() > self._until:
                raise TooComplex(f"takes more than {self._seconds:g} s to compile")
            done += 1
            state = self._pending.pop()
            self._leave(self._numbers[state], self._moves(state))
        return self._made

    def _state(self, expressions: frozenset[int]) -> int:
        found = self._numbers.get(expressions)
        if found is None:
            found = self._numbers[expressions] = self._new()
            self._pending.append(expressions)
            if any(map(self._expressions.nullable, expressions)):
                self._made.accepting.append(found)
        return found

    def _new(self) -> int:
        self._made.states += 1
        if self._made.states > self._most:
            raise TooComplex(f"needs more than {self._most} states")
        return self._made.states - 1

    def _moves(self, state: frozenset[int]) -> list[tuple[int, int, int]]:
        """Ranges of characters, each with the state that they lead to; disjoint and ascending."""
        expressions = self._expressions
        left_by_set: dict[int, set[int]] = {}
        for expression in sorted(state):
            for characters, left in expressions.form(expression):
                left_by_set.setdefault(characters, set()).update(expressions.alternatives(left))
        ranges = [
            (low, high, n)
            for n, characters in enumerate(left_by_set)
            for low, high in expressions.sets[characters]
        ]
        lefts = list(left_by_set.values())
        if len(lefts) == 1:
            target = self._state(frozenset(lefts[0]))
            return [(low, high, target) for low, high, _ in ranges]
        edges = sorted({low for low, _, _ in ranges} | {high + 1 for _, high, _ in ranges})
        owners: list[list[int]] = [[] for _ in edges]
        for low, high, n in ranges:
            for at in range(bisect_right(edges, low) - 1, bisect_right(edges, high)):
                owners[at].append(n)
        found: list[tuple[int, int, int]] = []
        for at, of in enumerate(owners[:-1]):
            if not of:
                continue
            target = self._state(frozenset().union(*(lefts[n] for n in of)))
            if found and found[-1][1] == edges[at] - 1 and found[-1][2] == target:
                found[-1] = (found[-1][0], edges[at + 1] - 1, target)
            else:
                found.append((edges[at], edges[at + 1] - 1, target))
        return found

    def _leave(self, state: int, moves: Sequence[tuple[int, int, int]]) -> None:
        wide: list[tuple[Bytes, int]] = []
        for low, high, target in moves:
            if low <= ASCII:
                self._made.edges.append((state, low, min(high, ASCII), target))
            if high > ASCII:
                wide += [(bytes_, target) for bytes_ in utf8(max(low, ASCII + 1), high)]
        self._leave_by_bytes(state, wide)

    def _leave_by_bytes(self, state: int, sequences: Sequence[tuple[Bytes, int]]) -> None:
        by_first: dict[tuple[int, int], list[tuple[Bytes, int]]] = {}
        for bytes_, target in sequences:
            by_first.setdefault(bytes_[0], []).append((bytes_[1:], target))
        for (low, high), rest in by_first.items():
            self._made.edges.append((state, low, high, self._inside(tuple(rest))))

    def _inside(self, rest: tuple[tuple[Bytes, int], ...]) -> int:
        if not rest[0][0]:
            return rest[0][1]
        found = self._within.get(rest)
        if found is None:
            found = self._within[rest] = self._new()
            self._leave_by_bytes(found, rest)
        return found
