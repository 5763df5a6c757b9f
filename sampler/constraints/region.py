"""The part of a canvas whose text is constrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sampler.constraints.chain import Chain, Impossible
from sampler.constraints.token_automaton import TokenAutomaton


@dataclass(frozen=True)
class Region:
    """A language, and the positions of a canvas that hold its text.

    Attributes:
        automaton: the language.
        begin, end: positions; those from ``end`` on are not constrained.
    """

    automaton: TokenAutomaton
    begin: int
    end: int

    @classmethod
    def of(
        cls, automaton: TokenAutomaton, tokens: Sequence[int], editable: Sequence[bool]
    ) -> Region:
        """From the first position to fill to the end of a canvas. Given tokens between and after
        are part of the text.

        Raises:
            Impossible: no text of the language agrees with them.
        """
        begin = next((at for at, free in enumerate(editable) if free), len(editable))
        ids, free = np.array(tokens[begin:], dtype=np.int64), np.array(editable[begin:], dtype=bool)
        chain = Chain.of(automaton, ids, np.zeros(0, dtype=np.int64), free)
        chain.masses(np.zeros((0, automaton.classes)))
        return cls(automaton, begin, len(tokens))


__all__ = ["Impossible", "Region"]
