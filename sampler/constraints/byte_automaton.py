"""Deterministic automata over bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

DEAD = -1
"""In place of a state: no text of the language begins like this."""

Edge = tuple[int, int, int, int]
"""From a state, by the bytes from the second to the third number, to another state."""


@dataclass(frozen=True)
class ByteAutomaton:
    """A language of byte strings. The text begins in state 0.

    Attributes:
        following: next state by state and byte; ``DEAD`` where there is none.
        accepting: states in which a text may end.
    """

    following: Int[np.ndarray, "Q 256"]
    accepting: Bool[np.ndarray, " Q"]

    @classmethod
    def of(cls, states: int, accepting: Iterable[int], edges: Sequence[Edge]) -> ByteAutomaton:
        """An automaton by its edges."""
        following = np.full((states, 256), DEAD, dtype=np.int32)
        for state, low, high, target in edges:
            following[state, low : high + 1] = target
        ends = np.zeros(states, dtype=bool)
        ends[list(accepting)] = True
        return cls(following, ends)

    def accepts(self, text: bytes) -> bool:
        """Whether a text is of the language."""
        state = 0
        for byte in text:
            state = int(self.following[state, byte])
            if state == DEAD:
                return False
        return bool(self.accepting[state])
