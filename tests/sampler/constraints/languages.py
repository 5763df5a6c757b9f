"""A small vocabulary, and languages over it."""

from __future__ import annotations

import itertools

from sampler.constraints.byte_automaton import ByteAutomaton
from sampler.constraints.token_automaton import TokenAutomaton
from sampler.constraints.token_bytes import TokenBytes
from server.constraints.determinize import automaton_of
from server.constraints.expressions import Expressions

DATA = {0: b"a", 1: b"b", 2: b"ab", 3: b"ba", 4: b"aa", 5: b"\xc3", 6: b"\xa9", 7: "bé".encode()}
END, MASK, SIZE = 8, 9, 10
VOCABULARY = TokenBytes.of(SIZE, DATA, (END,))


def expressions_of(build) -> ByteAutomaton:
    """The automaton of what ``build`` makes with an ``Expressions``."""
    expressions = Expressions(1 << 16)
    found = automaton_of(expressions, build(expressions), 1 << 12, 10.0)
    return ByteAutomaton.of(found.states, found.accepting, found.edges)


def pattern(e: Expressions) -> int:
    """(ab|ba*|é){1,3}a?"""
    a, b, accent = e.text("a"), e.text("b"), e.text("é")
    part = e.any_of([e.text("ab"), e.sequence([b, e.repeat(a)]), accent])
    return e.sequence([e.repeat(part, 1, 3), e.optional(a)])


PATTERN = r"(ab|ba*|é){1,3}a?"
BYTES = expressions_of(pattern)
TOKENS: TokenAutomaton = VOCABULARY.automaton(BYTES)


def everything(size: int, mask: int) -> TokenAutomaton:
    """One state, which every token but the mask leads back to."""
    import numpy as np

    functions = np.where(np.arange(size) == mask, -1, 0)
    return TokenAutomaton.of(np.zeros((1, 1), dtype=np.int64), functions, np.ones(1, dtype=bool))


def canvases(automaton: TokenAutomaton, length: int, open_: int = SIZE) -> list[tuple[int, ...]]:
    """All canvases of a length that are texts of a language."""
    found = itertools.product(range(open_), repeat=length)
    return [ids for ids in found if automaton.accepts(ids)]
