"""Dream's sampler: shares of the masks, orders, and the distributions that they look at."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.params import InvalidParam
from sampler.samplers.dream import share_of_step
from sampler.step import take_step
from tests.sampler.toy import MASK, Hashed, N, Neighbours, states

SAMPLER = SAMPLERS["dream"].make(N, MASK, ())


def masks(count: int, *params) -> CanvasBatch:
    return SAMPLER.begin(CanvasBatch.of([([MASK] * count, [True] * count, p) for p in params]))


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1, 0.5])
def test_shares_have_the_bits_of_the_published_times(eps):
    for steps in (1, 2, 3, 7, 16, 31, 100, 255, 512, 4096):
        times = torch.linspace(1, eps, steps + 1)
        index = torch.arange(steps).numpy()
        count = torch.full((steps,), steps).numpy()
        found = share_of_step(index, count, torch.full((steps,), eps, dtype=torch.float64).numpy())
        assert torch.equal(torch.from_numpy(found), 1 - times[1:] / times[:-1])


def test_order_by_chance_fills_each_mask_with_the_share_of_the_step():
    """``origin``: of 12,000 masks; the standard deviation of the number left is below 55."""
    params = [make_params("dream", alg="origin", steps=6, seed=seed) for seed in range(60)]
    batch, left = masks(200, *params), [12000]
    while not bool(batch.finished.all()):
        batch = take_step(SAMPLER, Hashed(), batch).batch
        left.append(int((batch.tokens == MASK).sum()))
    for found, time in zip(left[:-1], torch.linspace(1, 1e-3, 7).tolist(), strict=False):
        assert abs(found - 12000 * time) < 5 * 55
    assert left[-1] == 0


def logits_of_three_masks(vocab: int, seed: int) -> torch.Tensor:
    """The logits [3, vocab - 1] that ``Neighbours`` gives for three masks, the mask left out."""
    network, tokens = Neighbours(vocab, seed), torch.full((3,), vocab - 1)
    return network.trunk(tokens, torch.tensor([0, 3]), torch.arange(3))[:, :-1].double()


def first_filled(seed: int, count: int = 1, **chosen) -> torch.Tensor:
    """How often each of three masks is the one that a first step fills, [3]."""
    sampler = SAMPLERS["dream"].make(5, 4, ())
    params = [make_params("dream", steps=2, eps=0.3, seed=s, **chosen) for s in range(count)]
    batch = sampler.begin(CanvasBatch.of([([4] * 3, [True] * 3, p) for p in params]))
    tokens = take_step(sampler, Neighbours(5, seed), batch).batch.tokens.view(-1, 3)
    assert bool(((tokens != 4).sum(1) == 1).all())
    return (tokens != 4).sum(0)


@pytest.mark.parametrize("seed", range(6))
def test_the_most_certain_mask_is_filled_first(seed):
    p = logits_of_three_masks(5, seed).softmax(-1)
    two = p.topk(2).values
    measures = {
        "maskgit_plus": two[:, 0],
        "topk_margin": two[:, 0] - two[:, 1],
        "entropy": (p * p.log()).sum(-1),
    }
    for alg, measure in measures.items():
        (place,) = first_filled(seed, alg=alg, temperature=0.0).nonzero()[:, 0].tolist()
        assert place == int(measure.argmax())


@pytest.mark.parametrize("alg", ["entropy", "topk_margin"])
def test_certainty_is_that_of_the_distribution_that_is_drawn_from(alg):
    """After temperature and top-p, whatever token was drawn; top-p keeps the token that crosses."""
    decided = 0
    for seed in range(12):
        p = (logits_of_three_masks(5, seed) / 1.5).softmax(-1)
        found, order = p.sort(-1, descending=True)
        kept = torch.where(found.cumsum(-1) - found <= 0.9, found, 0.0)
        cut = torch.zeros_like(p).scatter(-1, order, kept)
        cut /= cut.sum(-1, keepdim=True)
        two = cut.topk(2).values
        measure = two[:, 0] - two[:, 1]
        if alg == "entropy":
            measure = -torch.special.entr(cut).sum(-1)
        if (measure == measure.max()).sum() > 1:
            continue  # a tie is decided by the token that was drawn
        filled = first_filled(seed, 20, alg=alg, temperature=1.5, top_p=0.9, top_p_rule="crossing")
        assert int(filled[int(measure.argmax())]) == 20
        decided += 1
    assert decided >= 8


def test_an_order_with_a_temperature_is_drawn_by_certainty():
    """By softmax(certainty / alg_temp): chi-square with two degrees of freedom over 3,000 canvases;
    above 18.4 once in 10,000 times.
    """
    filled = first_filled(3, 3000, alg="maskgit_plus", alg_temp=0.2, temperature=0.0).double()
    certainty = logits_of_three_masks(5, 3).softmax(-1).amax(-1)
    expected = (certainty / 0.2).softmax(-1) * 3000
    assert float(((filled - expected) ** 2 / expected).sum()) < 18.4


def test_ties_go_to_the_token_that_the_model_gives_a_higher_probability():
    """At a low top-p every nucleus has one token, and every certainty is the same."""
    for seed in range(6):
        raw = logits_of_three_masks(5, seed).softmax(-1).amax(-1)
        for alg in ("entropy", "maskgit_plus", "topk_margin"):
            filled = first_filled(seed, alg=alg, temperature=1.0, top_p=1e-9)
            assert int(filled.argmax()) == int(raw.argmax())


def test_blocks_are_filled_in_turn_and_nothing_is_left_open():
    for steps, length in ((4, 5), (9, 5), (12, 4), (20, 7), (3, 20)):
        params = make_params("dream", steps=steps, block_length=length, seed=2)
        found = states(Hashed(), SAMPLER, ([MASK] * 20, [True] * 20, params))
        for before, after in pairwise(found):
            blocks = {i // length for i in range(20) if before[i] != after[i]}
            first = min(i // length for i in range(20) if before[i] == MASK)
            assert blocks <= {first}
        assert len(found) == steps + 1 and MASK not in found[-1]


def test_steps_that_fill_nothing_run_no_network():
    """With as many steps as tokens the first share is below one token."""
    batch = masks(16, make_params("dream", steps=16, temperature=0.0))
    result = take_step(SAMPLER, Hashed(), batch)
    assert result.forwards.tolist() == [0] and result.run == 0


def test_an_order_by_chance_has_no_temperature():
    with pytest.raises(InvalidParam, match="alg_temp must be 0 for alg origin"):
        make_params("dream", alg="origin", alg_temp=0.5)
