"""Deterministic automata over tokens: texts of a language, followed by end tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sampler.constraints.byte_automaton import DEAD

NEVER = 1 << 40
"""In place of a number of tokens: no text can be completed."""


@dataclass(frozen=True, eq=False)
class Arcs:
    """The transitions of an automaton, those between the same two states merged to one arc.

    Few sets of classes lead along many arcs: any letter, within each string of a schema. A row's
    mass is needed once for each set.

    Attributes:
        labels: the classes of each set, one set after another.
        begins: where each set begins among them.
        set_of: the set of each arc; arcs are sorted by the state that they leave.
        target: the state that each leads to.
        first: where the arcs of each state of ``TokenAutomaton.leaving`` begin.
    """

    labels: Int[np.ndarray, " N"]
    begins: Int[np.ndarray, " G"]
    set_of: Int[np.ndarray, " A"]
    target: Int[np.ndarray, " A"]
    first: Int[np.ndarray, " S"]

    @classmethod
    def of(cls, source: np.ndarray, label: np.ndarray, target: np.ndarray) -> Arcs:
        """Of transitions."""
        order = np.lexsort((label, target, source))
        source, label, target = source[order], label[order], target[order]
        new_state = np.diff(source, prepend=-1) != 0
        begins = np.flatnonzero(new_state | (np.diff(target, prepend=-1) != 0))
        sizes = np.diff(np.append(begins, len(label)))
        same = _same_runs(label, begins, sizes)
        sets, set_of = np.unique(same, return_inverse=True)
        in_set = np.zeros(len(begins), dtype=bool)
        in_set[sets] = True
        return cls(
            labels=label[np.repeat(in_set, sizes)],
            begins=np.cumsum(sizes[sets]) - sizes[sets],
            set_of=set_of.reshape(-1),
            target=target[begins],
            first=np.flatnonzero(new_state[begins]),
        )


def _same_runs(
    numbers: Int[np.ndarray, " N"], begins: Int[np.ndarray, " A"], sizes: Int[np.ndarray, " A"]
) -> Int[np.ndarray, " A"]:
    """For each run of numbers, the first run that equals it. Found by a hash, then compared; where
    two that differ share one, each run stands for itself.
    """
    if not len(begins):
        return begins
    values = np.random.default_rng(0).integers(0, 1 << 63, int(numbers.max()) + 1, dtype=np.uint64)
    _, first, which = np.unique(
        np.add.reduceat(values[numbers], begins), return_index=True, return_inverse=True
    )
    found = first[which.reshape(-1)]
    if not (sizes[found] == sizes).all():
        return np.arange(len(begins))
    inside = np.arange(len(numbers)) - np.repeat(begins, sizes)
    equal = numbers[np.repeat(begins[found], sizes) + inside] == numbers
    return found if equal.all() else np.arange(len(begins))


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """A language of token sequences. Tokens that act alike in every state are one class.

    Every state can be completed, and is reached by some tokens from the first. Transitions are
    sorted by the state that they leave.

    Attributes:
        start: the state before the first token; ``DEAD`` where the language is empty.
        accepting: states in which the canvas may end.
        class_of: class of each id; the last class, ``classes`` - 1, is never allowed.
        table: next state by class and state; ``DEAD`` where the class is not allowed.
        source, label, target: state, class and next state of each transition.
        ends: whether end tokens may follow a text.
    """

    start: int
    accepting: Bool[np.ndarray, " Q"]
    class_of: Int[np.ndarray, " V"]
    table: Int[np.ndarray, "C Q"]
    source: Int[np.ndarray, " E"]
    label: Int[np.ndarray, " E"]
    target: Int[np.ndarray, " E"]
    ends: bool

    @classmethod
    def of(
        cls,
        table: Int[np.ndarray, "F S"],
        function_of: Int[np.ndarray, " V"],
        accepting: Bool[np.ndarray, " S"],
        ends: Sequence[int] = (),
    ) -> TokenAutomaton:
        """The automaton of a language whose first state is 0, without states that are of no use.

        Args:
            table: next state by function and state.
            function_of: function of each id; -1 for ids that are never allowed.
            accepting: states in which a text may end.
            ends: ids that may follow a text.
        """
        used = np.unique(function_of[function_of >= 0])
        place = np.searchsorted(used, function_of)
        function_of, table = np.where(function_of >= 0, place, -1), table[used]
        if ends:
            states = len(accepting)
            table = np.pad(table, ((0, 1), (0, 1)), constant_values=DEAD)
            accepting = np.append(accepting, True)
            table[-1] = np.where(accepting, states, DEAD)
            function_of[list(ends)] = len(table) - 1
        keep = useful(table, accepting)
        empty = not keep[0]
        keep[0] = True
        number = np.append(np.where(keep, keep.cumsum() - 1, DEAD), DEAD)
        table = number[table[:, keep]]
        table, of_functions = _classes(table)
        function_of = np.append(of_functions, len(table) - 1)[function_of]
        source, label = np.nonzero(table.T != DEAD)
        return cls(
            start=DEAD if empty else 0,
            accepting=accepting[keep],
            class_of=function_of,
            table=table,
            source=source,
            label=label,
            target=table[label, source],
            ends=bool(ends),
        )

    @property
    def states(self) -> int:
        """Q."""
        return len(self.accepting)

    @property
    def classes(self) -> int:
        """C, that of the tokens that are never allowed included."""
        return len(self.table)

    @cached_property
    def order(self) -> Int[np.ndarray, " V"]:
        """Ids, sorted by class."""
        return self.class_of.argsort(kind="stable")

    @cached_property
    def first(self) -> Int[np.ndarray, " Q1"]:
        """Where the transitions of each state begin, and where the last end."""
        return np.searchsorted(self.source, np.arange(self.states + 1))

    @cached_property
    def firsts(self) -> list[int]:
        """``first`` as a list, whose entries are read one by one."""
        return self.first.tolist()

    @cached_property
    def leaving(self) -> Int[np.ndarray, " S"]:
        """States that have transitions."""
        return np.flatnonzero(np.diff(self.first))

    @cached_property
    def arcs(self) -> Arcs:
        """Its transitions, merged."""
        return Arcs.of(self.source, self.label, self.target)

    @cached_property
    def tokens_left(self) -> Int[np.ndarray, " Q"]:
        """Fewest tokens from each state to one in which the canvas may end."""
        left = np.where(self.accepting, 0, NEVER)
        while len(self.leaving):
            best = left.copy()
            fewest = np.minimum.reduceat(left[self.target], self.first[self.leaving]) + 1
            best[self.leaving] = np.minimum(left[self.leaving], fewest)
            if (best == left).all():
                break
            left = best
        return left

    @cached_property
    def on_devices(self) -> dict[str, Any]:
        """Tensors made from it, by device."""
        return {}

    def after(self, state: int, id_: int) -> int:
        """The state after one more token, or ``DEAD``."""
        return int(self.table[self.class_of[id_], state])

    def accepts(self, ids: Sequence[int]) -> bool:
        """Whether a canvas of these tokens is of the language."""
        state = self.start
        for id_ in ids:
            if state == DEAD:
                return False
            state = self.after(state, id_)
        return state != DEAD and bool(self.accepting[state])

    def can_end(self, tokens: int) -> Bool[np.ndarray, " Q"]:
        """States from which exactly so many tokens complete the canvas."""
        if self.ends:
            return self.tokens_left <= tokens
        found = self.accepting
        for _ in range(tokens):
            found = self.one_before(found)
        return found

    def one_before(self, states: Bool[np.ndarray, " Q"]) -> Bool[np.ndarray, " Q"]:
        """States from which one token leads to one of some states."""
        found = np.zeros(self.states, dtype=bool)
        found[self.source[states[self.target]]] = True
        return found


def useful(
    table: Int[np.ndarray, "F S"], accepting: Bool[np.ndarray, " S"]
) -> Bool[np.ndarray, " S"]:
    """States that are reached from the first, and from which a text can be completed."""
    label, source = np.nonzero(table != DEAD)
    target = table[label, source]
    reached = np.zeros(len(accepting), dtype=bool)
    reached[0] = True
    return _spread(reached, source, target) & _spread(accepting.copy(), target, source)


def _spread(marks: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Marked states, and all that transitions reach from them."""
    while True:
        count = marks.sum()
        marks[target[marks[source]]] = True
        if marks.sum() == count:
            return marks


def _classes(
    table: Int[np.ndarray, "F Q"],
) -> tuple[Int[np.ndarray, "C Q"], Int[np.ndarray, " F"]]:
    """The different functions, that which leads nowhere last; and which of them each is."""
    live = (table != DEAD).any(1)
    nowhere = np.full((1, table.shape[1]), DEAD, dtype=table.dtype)
    found, which = table[:0], np.zeros(0, dtype=np.int64)
    if live.any():
        found, which = np.unique(table[live], axis=0, return_inverse=True)
    classes = np.full(len(table), len(found))
    classes[live] = which.reshape(-1)
    return np.concatenate((found, nowhere)), classes
