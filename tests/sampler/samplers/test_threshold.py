"""The threshold sampler against a plain loop, for each of its rules."""

from __future__ import annotations

import pytest
import torch

from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.params import InvalidParam, SamplingParams
from sampler.samplers.threshold import Threshold, ThresholdParams, running_sums
from sampler.step import take_step
from tests.sampler.toy import MASK, Hashed, N, behind, states
from tests.support.effort import count

GREEDY = make_params(sampler="threshold", temperature=0.0)


def lets_through(sure: list[float], entropy: list[float], params: SamplingParams) -> int:
    """How many of the masks pass, given in the order of the rule."""
    own = params.own
    assert isinstance(own, ThresholdParams)
    if own.entropy_bound is not None:
        sums = [sum(entropy[:i]) for i in range(len(entropy))]  # without the last, the highest
        return max((n + 1 for n, s in enumerate(sums) if s <= own.entropy_bound), default=0)
    if own.confidence_factor is not None:
        factor = own.confidence_factor
        return max((n for n, c in enumerate(sure, 1) if (n + 1) * (1 - c) < factor), default=0)
    return sum(c >= own.confidence_threshold for c in sure)


def reference_run(network, tokens, editable, params: SamplingParams) -> list[list[int]]:
    """Greedy decoding, one position at a time, until no mask is left."""
    own = params.own
    assert isinstance(own, ThresholdParams)
    x = [MASK if e else t for t, e in zip(tokens, editable, strict=True)]
    spots = [i for i, e in enumerate(editable) if e]
    length = own.block_length or len(x)
    blocks = [spots[i : i + length] for i in range(0, len(spots), length)]
    found = [list(x)]
    for step in range(params.steps):
        left = [b for b in blocks if any(x[j] == MASK for j in b)]
        if not left:
            break
        masks = [j for j in left[0] if x[j] == MASK]
        logits = network.trunk(torch.tensor(x), torch.tensor([0, len(x)]), torch.arange(len(x)))
        logits = logits.index_fill(1, torch.tensor([MASK]), -torch.inf)
        p = logits.softmax(-1)
        entropy = torch.special.entr(logits.double().softmax(-1)).sum(-1).tolist()
        guess = p.argmax(-1).tolist()
        sure = [float(p[j, guess[j]]) for j in range(len(x))]
        if own.entropy_bound is None:
            order = sorted(masks, key=lambda j: (-sure[j], j))
        else:
            order = sorted(masks, key=lambda j: (entropy[j], j))
        passed = lets_through([sure[j] for j in order], [entropy[j] for j in order], params)
        least = -(-len(masks) // ((params.steps - step) // len(left)))
        for j in order[: max(passed, least)]:
            x[j] = guess[j]
        found.append(list(x))
    return found


@pytest.mark.parametrize(
    "rule",
    [
        {"confidence_threshold": 0.6},
        {"confidence_threshold": 1.0},
        {"confidence_threshold": 0.0},
        {"entropy_bound": 0.0},
        {"entropy_bound": 1.5},
        {"confidence_factor": 1.0},
        {"confidence_factor": 0.3},
    ],
)
def test_sampler_equals_a_plain_loop(rule):
    g = torch.Generator().manual_seed(1)
    network, sampler = Hashed(), Threshold(N, MASK)
    for _ in range(12):
        size = int(torch.randint(1, 15, (1,), generator=g))
        editable = (torch.rand(size, generator=g) < 0.7).tolist()
        editable[0] = True
        block = int(torch.randint(1, size + 1, (1,), generator=g))
        blocks = -(-sum(editable) // block)
        extra = int(torch.randint(0, 8, (1,), generator=g))
        params = GREEDY.changed(steps=blocks + extra, block_length=block, **rule)
        tokens = torch.randint(MASK, (size,), generator=g).tolist()
        expected = reference_run(network, tokens, editable, params)
        found = states(network, sampler, (tokens, editable, params))
        assert found[: len(expected)] == expected
        assert all(later == expected[-1] for later in found[len(expected) :])
        assert MASK not in expected[-1]


def test_settled_at_once_and_done_early():
    network, sampler = Hashed(), Threshold(N, MASK)
    params = GREEDY.changed(steps=40, confidence_threshold=0.3)
    batch = sampler.begin(CanvasBatch.of([behind([1, 2], 12, params)]))
    steps = 0
    while int(sampler.settled(batch)) < 14:
        result = take_step(sampler, network, batch)
        batch = result.batch
        assert int((batch.tokens == MASK).sum()) < 12 - steps  # at least one each step
        steps += 1
    assert steps < 12


def test_rules_exclude_each_other():
    with pytest.raises(InvalidParam, match="entropy_bound"):
        GREEDY.changed(entropy_bound=1.0, confidence_factor=1.0)


def test_entropies_of_a_canvas_sum_to_the_same_bits_alone_and_in_company():
    g = torch.Generator().manual_seed(8)
    for _ in range(50):
        mine = 3 * torch.rand(50, generator=g).double()
        other = 3 * torch.rand(300, generator=g).double()
        place = torch.arange(50)
        alone = running_sums(mine, torch.zeros_like(place), place, 1, 50)
        group = torch.tensor([0] * 300 + [1] * 50)
        places = torch.cat((torch.arange(300), place))
        both = running_sums(torch.cat((other, mine)), group, places, 2, 300)
        assert torch.equal(both[300:], alone)


@pytest.mark.parametrize("editing", [None, 0.2])
@pytest.mark.parametrize("length", [None, 4, 7])
def test_more_steps_than_a_canvas_can_take_change_no_token(length, editing):
    rule = {"confidence_threshold": 0.8, "editing_threshold": editing, "block_length": length}
    for seed in range(count(1, 5)):
        params = make_params("threshold", steps=4096, seed=seed, **rule)
        most = params.own.most_steps(18)
        found = []
        for steps in (4096, most):
            sampler = Threshold(N, MASK)
            batch = sampler.begin(CanvasBatch.of([behind([1, 2], 18, params.changed(steps=steps))]))
            for _ in range(most):
                batch = take_step(sampler, Hashed(), batch).batch
            assert int(sampler.settled(batch)) == 20
            found.append(batch.tokens.tolist())
        assert found[0] == found[1]
