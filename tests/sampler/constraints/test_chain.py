"""Joint draws of a chain against all canvases of a small vocabulary, one by one.

Chi-square tests have fixed seeds; each would fail by chance once in 10,000 seeds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sampler.constraints.algebra import AT_ONCE, LogSums
from sampler.constraints.byte_automaton import DEAD
from sampler.constraints.chain import Chain, Impossible, Masses
from sampler.constraints.token_automaton import TokenAutomaton
from tests.sampler.chance import odds
from tests.sampler.constraints.languages import END, MASK, SIZE, TOKENS, canvases
from tests.support.effort import count

ODDS = 1e-4
DRAWS = count(4000, 40_000)


def log_rows(length: int, seed: int, spread: float = 2.0) -> np.ndarray:
    """Log-probabilities [length, SIZE] of tokens; the mask has none."""
    logits = spread * np.random.default_rng(seed).normal(size=(length, SIZE))
    logits[:, MASK] = -1e30
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def by_class(log_p: np.ndarray, greatest: bool = False) -> np.ndarray:
    """Log-masses of classes, or those of their likeliest tokens."""
    found = np.full((len(log_p), TOKENS.classes), -1e30)
    for c in range(TOKENS.classes):
        own = log_p[:, TOKENS.class_of == c]
        if own.shape[1]:
            found[:, c] = own.max(1) if greatest else np.logaddexp.reduce(own, axis=1)
    return found


def chain_of(tokens: list[int], rows: list[int]) -> Chain:
    ids = np.array(tokens)
    return Chain.of(TOKENS, ids, np.array(rows, dtype=int), ids == MASK)


def exact(log_p: np.ndarray, tokens: list[int], rows: list[int]) -> dict[tuple[int, ...], float]:
    """Probability of the tokens in the rows, given that the canvas is a text: by enumeration."""
    found: dict[tuple[int, ...], float] = {}
    for ids in canvases(TOKENS, len(tokens)):
        fixed = [at for at, id_ in enumerate(tokens) if id_ != MASK]
        if all(ids[at] == tokens[at] for at in fixed):
            drawn = tuple(ids[at] for at in rows)
            found[drawn] = np.exp(sum(log_p[r, id_] for r, id_ in enumerate(drawn)))
    whole = sum(found.values())
    return {drawn: p / whole for drawn, p in found.items()}


def drawn_by(masses: Masses, log_p: np.ndarray, draws: int, seed: int):
    """Joint draws of tokens: a class by the chain, and a token within it."""
    g = np.random.default_rng(seed)
    for _ in range(draws):
        classes, _ = masses.draw(g.random(len(log_p)))
        ids = []
        for row, label in enumerate(classes):
            own = np.flatnonzero(TOKENS.class_of == label)
            p = np.exp(log_p[row, own])
            ids.append(int(g.choice(own, p=p / p.sum())))
        yield tuple(ids)


CASES = {
    "open": [MASK] * 4,
    "a token in the middle": [MASK, 1, MASK, MASK],
    "tokens at the start": [1, 0, MASK, MASK],
    "an end token at the end": [MASK, MASK, MASK, END],
    "a character in two tokens": [MASK, 6, MASK, MASK],
}


JOINT = [*((case, False) for case in CASES), *((case, True) for case in CASES)]


@pytest.mark.parametrize(("case", "logs"), JOINT[: count(len(CASES) + 2, len(JOINT))])
def test_joint_draws_have_the_restricted_products_distribution(case: str, logs: bool) -> None:
    tokens = CASES[case]
    rows = [at for at, id_ in enumerate(tokens) if id_ == MASK]
    log_p = log_rows(len(rows), 7)
    # rows that are far below 1 in every class make sums underflow, and so take logarithms
    shift = np.linspace(-400.0, -900.0, len(rows))[:, None] if logs else 0.0
    masses = chain_of(tokens, rows).masses(by_class(log_p) + shift)
    wanted = exact(log_p, tokens, rows)
    counts = dict.fromkeys(wanted, 0)
    for ids in drawn_by(masses, log_p, DRAWS, 3):
        counts[ids] += 1
    seen, shares = torch.tensor([*counts.values()]), torch.tensor([*wanted.values()])
    assert odds(seen, shares.double()) > ODDS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(count(8, 200)))
def test_best_canvas_is_the_likeliest_of_all(case: str, seed: int) -> None:
    tokens = CASES[case]
    rows = [at for at, id_ in enumerate(tokens) if id_ == MASK]
    log_p = log_rows(len(rows), seed)
    masses = chain_of(tokens, rows).best(by_class(log_p, greatest=True))
    classes, _ = masses.draw(None)
    wanted = exact(log_p, tokens, rows)
    best = max(wanted, key=wanted.__getitem__)
    assert [int(c) for c in classes] == [int(TOKENS.class_of[id_]) for id_ in best]


@pytest.mark.parametrize("case", CASES)
def test_ratios_give_the_probability_of_each_token_given_those_before_it(case: str) -> None:
    tokens = CASES[case]
    rows = [at for at, id_ in enumerate(tokens) if id_ == MASK]
    log_p = log_rows(len(rows), 11)
    chain = chain_of(tokens, rows)
    masses = chain.masses(by_class(log_p))
    wanted = exact(log_p, tokens, rows)
    for ids, p in wanted.items():
        states = masses.follow(np.array(ids))
        assert states is not None
        own = np.exp(log_p[np.arange(len(rows)), ids] + masses.log_ratios(states))
        assert np.prod(own) == pytest.approx(p, rel=1e-9)
        for n in range(len(ids)):
            before = sum(q for other, q in wanted.items() if other[:n] == ids[:n])
            here = sum(q for other, q in wanted.items() if other[: n + 1] == ids[: n + 1])
            assert own[n] == pytest.approx(here / before, rel=1e-9)


def test_states_of_tokens_that_are_no_text_is_none() -> None:
    masses = chain_of([MASK, MASK], [0, 1]).masses(by_class(log_rows(2, 1)))
    assert masses.follow(np.array([0, 0])) is None
    assert masses.follow(np.array([1, 0])) is not None


@pytest.mark.parametrize("unread", [[2, 3], [0, 1], [1, 3]], ids=str)
@pytest.mark.parametrize("greedy", [False, True])
def test_positions_that_were_not_read_can_be_filled_after_every_draw(
    unread: list[int], greedy: bool
) -> None:
    tokens, rows = [MASK] * 4, [at for at in range(4) if at not in unread]
    log_p = log_rows(2, 5)
    chain = chain_of(tokens, rows)
    masses = chain.best(by_class(log_p, True)) if greedy else chain.masses(by_class(log_p))
    texts = canvases(TOKENS, 4)
    for ids in drawn_by(masses, log_p, 300, 1):
        assert any(all(text[at] == i for at, i in zip(rows, ids, strict=True)) for text in texts)
        assert masses.follow(np.array(ids)) is not None


@pytest.mark.parametrize("unread", [[], [2, 3], [0, 1], [1, 3], [0, 2]], ids=str)
def test_tokens_that_can_be_followed_are_those_that_can_be_drawn(unread: list[int]) -> None:
    """Together they have the mass that is drawn from, so rejection and joint draws agree."""
    rows = [at for at in range(4) if at not in unread]
    log_p = log_rows(len(rows), 6)
    masses = chain_of([MASK] * 4, rows).masses(by_class(log_p))
    followed = [
        np.exp(sum(log_p[r, id_] for r, id_ in enumerate(ids)))
        for ids in itertools.product(range(SIZE), repeat=len(rows))
        if masses.follow(np.array(ids)) is not None
    ]
    whole = np.log(masses.of[0, 0]) + masses.scales.sum() + masses.peaks.sum()
    assert sum(followed) == pytest.approx(np.exp(whole), rel=1e-9)


def test_last_positions_that_were_not_read_weigh_only_whether_a_text_can_be_completed() -> None:
    tokens, rows = [MASK] * 4, [0, 1]
    log_p = log_rows(2, 9)
    texts = canvases(TOKENS, 4)
    possible = {ids[:2] for ids in texts}
    p = {ids: np.exp(log_p[0, ids[0]] + log_p[1, ids[1]]) for ids in possible}
    shares = torch.tensor([*p.values()]).double()
    counts = dict.fromkeys(p, 0)
    for ids in drawn_by(chain_of(tokens, rows).masses(by_class(log_p)), log_p, DRAWS, 2):
        counts[ids] += 1
    assert odds(torch.tensor([*counts.values()]), shares / shares.sum()) > ODDS


@pytest.mark.parametrize("tokens", [[0, END, MASK], [MASK, END, 0], [1, 0, 5]], ids=str)
def test_canvas_that_no_text_completes_is_impossible(tokens: list[int]) -> None:
    rows = [at for at, id_ in enumerate(tokens) if id_ == MASK]
    log_p = by_class(log_rows(len(rows), 1))
    for work in ("masses", "best"):
        with pytest.raises(Impossible):
            getattr(chain_of(tokens, rows), work)(log_p)


def test_text_of_vanishing_probability_is_drawn_where_it_is_the_only_one() -> None:
    log_p = np.full((1, SIZE), -1e9)
    log_p[0, END], log_p[0, 2] = 0.0, -1.0  # the likely tokens are not allowed here
    chain = chain_of([1, MASK, 6, END], [1])
    classes, _ = chain.masses(by_class(log_p)).draw(np.array([0.5]))
    assert classes[0] == TOKENS.class_of[5]
    classes, _ = chain.best(by_class(log_p, greatest=True)).draw(None)
    assert classes[0] == TOKENS.class_of[5]


def dense_automaton(states: int, functions: int, seed: int) -> TokenAutomaton:
    """One id a function; each leads from every state to a drawn one, or nowhere."""
    g = np.random.default_rng(seed)
    table = g.integers(0, states, size=(functions, states))
    table[g.random(table.shape) < 0.2] = DEAD
    return TokenAutomaton.of(table, np.arange(functions), g.random(states) < 0.5)


@pytest.mark.parametrize("spread", [1.0, 3000.0], ids=["sums", "logarithms"])
def test_masses_of_many_rows_equal_the_sums_over_all_transitions(spread: float) -> None:
    """More rows by transitions than are made at once."""
    automaton = dense_automaton(states=48, functions=64, seed=1)
    rows = 300
    assert rows * len(automaton.arcs.target) > AT_ONCE
    log_p = spread * np.random.default_rng(2).normal(size=(rows, automaton.classes))
    tokens = np.full(rows, -1)
    masses = Chain.of(automaton, tokens, np.arange(rows), tokens == -1).masses(log_p)
    assert isinstance(masses.algebra, LogSums) == (spread > 1)

    expected = np.where(automaton.accepting, 0.0, -np.inf)
    for row in reversed(range(rows)):
        following = np.append(expected, -np.inf)[automaton.table]
        expected = np.logaddexp.reduce(log_p[row, :, None] + following, axis=0)
    found = masses.algebra.logs(masses.of[0]) + masses.scales.sum() + masses.peaks.sum()
    assert found[automaton.start] == pytest.approx(expected[automaton.start], rel=1e-12)
