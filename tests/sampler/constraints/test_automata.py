"""Languages as automata over bytes and over tokens, compared with Python's own expressions."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from sampler.constraints.byte_automaton import DEAD
from sampler.constraints.token_automaton import NEVER, Arcs
from sampler.constraints.token_bytes import TokenBytes, TooLarge
from tests.sampler.constraints.languages import (
    BYTES,
    DATA,
    END,
    MASK,
    PATTERN,
    SIZE,
    TOKENS,
    VOCABULARY,
    canvases,
    expressions_of,
)


def is_text(ids) -> bool:
    """Whether the tokens before the end tokens are a text of the pattern, by its bytes."""
    text = [*itertools.takewhile(lambda id_: id_ != END, ids)]
    rest = ids[len(text) :]
    if MASK in ids or any(id_ != END for id_ in rest):
        return False
    try:
        return bool(re.fullmatch(PATTERN, b"".join(DATA[i] for i in text).decode()))
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_token_automaton_every_short_canvas_accepted_if_its_text_matches(length: int) -> None:
    for ids in itertools.product(range(SIZE), repeat=length):
        assert TOKENS.accepts(ids) is is_text(ids), ids


def test_byte_automaton_part_of_a_character_is_not_accepted() -> None:
    assert BYTES.accepts("éa".encode())
    assert not BYTES.accepts(b"\xc3")
    assert not BYTES.accepts(b"\xa9")


def test_token_automaton_classes_hold_tokens_that_act_alike_in_every_state() -> None:
    columns = TOKENS.table[TOKENS.class_of]
    for one, other in itertools.combinations(range(SIZE), 2):
        alike = bool((columns[one] == columns[other]).all())
        assert alike == bool(TOKENS.class_of[one] == TOKENS.class_of[other])
    assert TOKENS.class_of[MASK] == TOKENS.classes - 1


def test_tokens_left_of_each_state_is_the_length_of_its_shortest_completion() -> None:
    lengths = [n for n in range(5) if any(END not in ids for ids in canvases(TOKENS, n))]
    assert TOKENS.tokens_left[TOKENS.start] == min(lengths)
    assert (TOKENS.tokens_left < NEVER).all()
    for n in range(4):
        assert bool(TOKENS.can_end(n)[TOKENS.start]) is bool(canvases(TOKENS, n))


def test_language_without_end_tokens_fills_the_canvas_exactly() -> None:
    exact = TokenBytes.of(SIZE, DATA, ()).automaton(expressions_of(lambda e: e.text("aaa")))
    assert [len(canvases(exact, n)) for n in range(5)] == [0, 0, 2, 1, 0]
    assert [n for n in range(5) if exact.can_end(n)[exact.start]] == [2, 3]


def test_language_that_no_tokens_spell_is_empty() -> None:
    nothing = VOCABULARY.automaton(expressions_of(lambda e: e.text("c")))
    assert nothing.start == -1
    assert not nothing.accepts([]) and not nothing.accepts([END])


def test_automaton_with_more_transitions_than_the_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(TooLarge) as caught:
        VOCABULARY.automaton(BYTES, most_transitions=10)
    assert caught.value.limit == 10 and caught.value.found > 10
    assert str(caught.value.found) in str(caught.value)
    assert len(VOCABULARY.automaton(BYTES, len(TOKENS.source)).source) == len(TOKENS.source)


def test_transitions_are_sorted_by_the_state_that_they_leave() -> None:
    assert (np.diff(TOKENS.source) >= 0).all()
    for state in range(TOKENS.states):
        here = slice(TOKENS.first[state], TOKENS.first[state + 1])
        live = np.flatnonzero(TOKENS.table[:, state] >= 0)
        assert (TOKENS.label[here] == live).all()
        assert (TOKENS.target[here] == TOKENS.table[live, state]).all()


@pytest.mark.parametrize("states, functions", [(1, 1), (3, 2), (20, 12)])
def test_arcs_hold_the_transitions_between_each_two_states(states: int, functions: int) -> None:
    g = np.random.default_rng(states)
    table = g.integers(0, states, size=(functions, states))
    table[g.random(table.shape) < 0.3] = DEAD
    label, source = np.nonzero(table != DEAD)
    order = np.lexsort((label, source))
    source, label = source[order], label[order]
    target = table[label, source]
    arcs = Arcs.of(source, label, target)

    expected: dict[tuple[int, int], list[int]] = {}
    for state, class_, following in zip(source, label, target, strict=True):
        expected.setdefault((int(state), int(following)), []).append(int(class_))
    leaving = np.unique(source)
    ends, sets = np.append(arcs.first, len(arcs.target))[1:], np.split(arcs.labels, arcs.begins[1:])
    found = {
        (int(state), int(arcs.target[arc])): sets[arcs.set_of[arc]].tolist()
        for state, first, end in zip(leaving, arcs.first, ends, strict=True)
        for arc in range(first, end)
    }
    assert {arc: sorted(classes) for arc, classes in expected.items()} == found
    assert len({tuple(classes) for classes in sets}) == len(sets)
