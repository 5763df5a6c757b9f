"""Fewer steps than were asked for: what is left is done in the steps left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.deadline import shortened
from sampler.schedules import times
from sampler.step import take_step
from tests.sampler.toy import MASK, Hashed, N, behind
from tests.support.effort import count

PARAMS = {
    "ancestral": make_params(steps=12, mixing_ratio=0.2),
    "topk": make_params(sampler="topk", steps=12, mixing_ratio=0.3),
    "blocks": make_params(
        sampler="topk", steps=12, mixing_ratio=0.3, block_length=4, refine_scope="block"
    ),
    "threshold": make_params(sampler="threshold", steps=12, block_length=5),
    "editing": make_params(
        sampler="threshold", steps=12, block_length=5, editing_threshold=0.1, post_steps=2
    ),
    "gidd": make_params(sampler="gidd", steps=12, p_uniform=0.3),
    "cap": make_params(sampler="remdm", steps=12, remdm_eta=0.3),
    "loop": make_params(sampler="remdm", steps=12, remdm_schedule="loop", remdm_t_off=0.3),
}


@pytest.mark.parametrize("kind", PARAMS)
@settings(max_examples=count(3, 15), deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 12)), max_size=3))
def test_a_canvas_is_complete_in_the_steps_left(kind, cuts):
    params = PARAMS[kind]
    sampler, network = SAMPLERS[params.sampler].make(N, MASK, ()), Hashed()
    others = [behind([2], 6, params.changed(seed=7)), behind([1, 2], 9, params)]
    canvases = [others[0], behind([3, 4], 21, params), others[1]]
    batch = sampler.begin(CanvasBatch.of(canvases))
    allowed, seen = 12, torch.tensor([0, 0, 0])
    many = 1000
    while int(batch.step[1]) < int(batch.calls[1]):
        step = int(batch.step[1])
        for at, left in cuts:
            if at == step and step + left < allowed:
                allowed = step + left
                batch = shortened(batch, torch.tensor([many, left, many]))
        settled = sampler.settled(batch)
        assert (settled >= seen).all()  # what was said to be final stays so
        before, seen = batch.tokens, settled
        batch = take_step(sampler, network, batch).batch
        kept = torch.cat(
            [torch.arange(int(n)) < s for n, s in zip(batch.lengths, seen, strict=True)]
        )
        assert torch.equal(before[kept], batch.tokens[kept])
    assert int(batch.step[1]) == allowed + params.calls - params.steps
    assert MASK not in batch.tokens.split(batch.lengths.tolist())[1]
    # the neighbours are where they would be alone
    for i in (0, 2):
        alone = sampler.begin(CanvasBatch.of([canvases[i]]))
        for _ in range(int(batch.step[1])):
            alone = take_step(sampler, network, alone).batch
        assert torch.equal(alone.tokens, batch.tokens.split(batch.lengths.tolist())[i])


def test_the_time_left_is_walked_in_even_steps():
    params = PARAMS["ancestral"]
    batch = CanvasBatch.of([behind([3], 8, params)])
    batch = replace(batch, step=torch.tensor([5]))
    cut = shortened(batch, torch.tensor([3]))
    assert (int(cut.steps), int(cut.calls)) == (8, 9)
    walked = [
        times(torch.tensor([i]), cut.steps, cut.from_step, cut.from_time) for i in range(5, 9)
    ]
    start = 1 - 5 * (1 - 1e-5) / 12
    expected = [start - i * (start - 1e-5) / 3 for i in range(4)]
    assert [float(t) for t, _ in walked] == pytest.approx(expected)
    again = shortened(cut, torch.tensor([9]))
    assert torch.equal(again.steps, cut.steps)


def test_the_hybrid_sampler_does_what_it_had_planned():
    params = PARAMS["blocks"]
    batch = CanvasBatch.of([behind([3], 20, params), behind([3], 12, params)])
    batch = replace(batch, step=torch.tensor([3, 3]))
    left = [batch.own.plan_absorb[3:12].sum(), batch.own.plan_refine[3:12].sum()]
    cut = shortened(batch, torch.tensor([6, 1000]))
    plans = (cut.own.plan_absorb, cut.own.plan_refine)
    assert cut.own.plan_steps.tolist() == [9, 12]
    assert [int(p[3:9].sum()) for p in plans] == left
    assert cut.own.plan_block[3:9].tolist() == [1, 1, 2, 2, 3, 4]
    assert torch.equal(cut.own.plan_absorb[9:], batch.own.plan_absorb[12:])
