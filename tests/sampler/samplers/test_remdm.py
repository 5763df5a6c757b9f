"""ReMDM's cap, rescale and loop: against the definition, an explicit loop, and whole chains.

False-alarm odds are stated with each statistical test; seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.params import InvalidParam, SamplingParams
from sampler.samplers.remdm import Remasking, Remdm, RemdmParams, remasking
from sampler.step import take_step
from sampler.transition import REMASK, UNMASK
from tests.sampler.chance import assert_same_chains, chains, explicit_chains, odds, one_step
from tests.sampler.toy import Hashed, Neighbours, Table, behind
from tests.support.effort import count

N, MASK = 9, 8
SCHEDULES = ("cap", "rescale", "loop")


def official(params: SamplingParams, i: int) -> tuple[float, float]:
    """(fill, remask) of call i, from the published weights of the categorical: what a mask's guess
    weighs against what staying a mask weighs. Negative weights are never drawn.
    """
    own = params.own
    assert isinstance(own, RemdmParams)
    dt = (1 - 1e-5) / params.steps
    t = 1 - i * dt if i < params.steps else 1e-5
    s = t - dt if i < params.steps else 0.0
    eta = own.remdm_eta
    assert eta is not None
    on, off, alpha_on = own.remdm_t_on, own.remdm_t_off, own.remdm_alpha_on
    if own.remdm_schedule == "loop":
        if off < t <= on:
            eta = min(eta, (1 - alpha_on) / alpha_on)
            fill, stay = (alpha_on - (1 - eta) * alpha_on), (1 - alpha_on - alpha_on * eta)
            return max(0, fill) / (max(0, fill) + max(0, stay)), eta
        if t > on:
            move_t, move_s = (1 - (1 - at) * alpha_on / (1 - on) for at in (t, s))
        else:
            move_t, move_s = (at * (1 - alpha_on) / off for at in (t, s))
        return (move_t - move_s) / (move_t - move_s + max(0, move_s)), 0.0
    alpha_t, alpha_s = 1 - t, 1 - s
    most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
    sigma = min(eta, most) if own.remdm_schedule == "cap" else eta * most
    return (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t), sigma


def at_calls(params: SamplingParams, *calls: int) -> CanvasBatch:
    """One canvas at each of these calls."""
    batch = CanvasBatch.of([([0], [True], params)] * len(calls))
    return replace(batch, step=torch.tensor(calls))


@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 60),
    eta=st.sampled_from([0.0, 0.008, 0.02, 0.3, 1.0]),
    window=st.tuples(st.floats(0.1, 0.9), st.floats(0.01, 1.0)),
    alpha_on=st.floats(0.05, 0.95),
)
@settings(max_examples=count(60, 200), deadline=None)
def test_every_call_of_every_schedule(schedule, steps, eta, window, alpha_on):
    """The published weights, for any number of steps: long ones that leap over a window's edge,
    and an eta beyond what is possible, too.
    """
    params = make_params(
        sampler="remdm",
        steps=steps,
        remdm_schedule=schedule,
        remdm_eta=eta,
        remdm_t_on=window[0],
        remdm_t_off=window[0] * window[1],
        remdm_alpha_on=alpha_on,
    )
    found = remasking(at_calls(params, *range(steps + 1)))
    fill, remask = zip(*(official(params, i) for i in range(steps + 1)), strict=True)
    assert found.fill.tolist() == pytest.approx(fill, abs=1e-9)
    assert found.remask.tolist() == pytest.approx(remask, abs=1e-9)
    assert float(found.fill[-1]) == 1.0 and float(found.remask[-1]) == 0.0  # no mask is left


@pytest.mark.parametrize(("on", "off"), [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0)])
def test_windows_at_the_ends_of_time(on, off):
    """Open all the time, or never: the last call fills all masks either way."""
    params = PARAMS["loop"].changed(remdm_t_on=on, remdm_t_off=off)
    found = remasking(at_calls(params, 0, 4, 7, 8))
    assert found.fill.isfinite().all() and found.remask.isfinite().all()
    assert found.remask.tolist() == ([0.1] * 3 + [0.0] if on > off else [0.0] * 4)
    assert float(found.fill[-1]) == 1.0


def test_published_etas_are_the_defaults():
    etas = {}
    for schedule in SCHEDULES:
        params = make_params(sampler="remdm", steps=1000, remdm_schedule=schedule)
        etas[schedule] = float(remasking(at_calls(params, 460)).remask)
    assert etas == {"cap": 0.008, "rescale": 0.015, "loop": 0.02}


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_the_share_of_masks_is_kept_by_brute_force(eta):
    """For each clean token: noised to t and taken back to s, it is noised to s, in sum over all
    states. That is what defines ReMDM.
    """
    n, mask = 5, 1
    eye = torch.eye(n, dtype=torch.float64)
    for alpha_s, alpha_t in ((0.6, 0.3), (0.9, 0.85), (0.4, 0.4), (1.0, 0.7)):
        step = Remasking.of(*torch.tensor([alpha_s, alpha_t, eta], dtype=torch.float64))
        for x in (0, 2, 3, 4):
            q_s = torch.zeros(n, dtype=torch.float64)
            for z, weight in ((x, alpha_t), (mask, 1 - alpha_t)):
                q_s += weight * step.posterior(eye[x], torch.tensor(z), mask)
            torch.testing.assert_close(
                q_s, alpha_s * eye[x] + (1 - alpha_s) * eye[mask], rtol=0, atol=1e-15
            )


def explicit(params: SamplingParams, i: int, p: torch.Tensor, z: torch.Tensor, mask: int):
    """The distribution that the published code samples from, row by row."""
    fill, remask = official(params, i)
    rows = []
    for guess, token in zip(p, z.tolist(), strict=True):
        row = guess * fill
        row[mask] = 1 - fill
        if token != mask:
            row = torch.zeros_like(guess)
            row[token], row[mask] = 1 - remask, remask
        rows.append(row)
    return torch.stack(rows)


PARAMS = {
    "cap": make_params(sampler="remdm", steps=8, remdm_eta=0.2, seed=5),
    "rescale": make_params(
        sampler="remdm", steps=8, remdm_schedule="rescale", remdm_eta=0.4, seed=5
    ),
    "loop": make_params(
        sampler="remdm", steps=8, remdm_schedule="loop", remdm_eta=0.1, remdm_t_off=0.2, seed=5
    ),
}


CASES = [
    (schedule, z, step)
    for i, (z, step) in enumerate([(MASK, 0), *itertools.product([MASK, 2], [2, 4, 7, 8])])
    for j, schedule in enumerate(SCHEDULES)
    if (i + j) % count(len(SCHEDULES), 1) == 0
]
"""In ``make test`` each token and step with one schedule in turn."""


@pytest.mark.parametrize(("schedule", "z", "step"), CASES)
def test_one_step_chi_square(schedule, z, step):
    """Many draws of one step against the explicit distribution of a guess under temperature and
    top-p. False alarm: 1e-6 in each case.
    """
    params = PARAMS[schedule].changed(temperature=0.7, top_p=0.8)
    logits = torch.linspace(-2, 2, N)
    p = (logits.double()[:MASK] / 0.7).softmax(-1)
    order = p.argsort(descending=True)
    keep = order[p[order].cumsum(0) <= 0.8]
    cut = torch.zeros(N, dtype=torch.float64).index_put((keep,), p[keep] / p[keep].sum())
    expected = explicit(params, step, cut[None], torch.tensor([z]), MASK)[0]
    assert odds(one_step(params, logits, MASK, z, step, count(100_000, 1_000_000)), expected) > 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_chains(schedule):
    """Joint distribution of three positions after all calls, against the explicit loop."""
    n, params = 5, PARAMS[schedule]
    network = Neighbours(n, seed=3)

    def posterior(i, p, z):
        fill, remask = official(params, i)
        masked = (z == n - 1)[:, None]
        mask = torch.nn.functional.one_hot(torch.tensor(n - 1), n).double()
        here = torch.nn.functional.one_hot(z, n).double()
        filled, kept = fill * p + (1 - fill) * mask, (1 - remask) * here + remask * mask
        return torch.where(masked, filled, kept)

    runs = explicit_chains(network, n, params.calls, posterior)
    assert_same_chains(chains(network, params, n), runs, n)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_only_masks_that_are_filled_ask_for_logits(schedule):
    params = PARAMS[schedule].changed(steps=24)
    sampler, network = Remdm(N, MASK), Table(torch.linspace(-1, 1, N))
    batch = sampler.begin(CanvasBatch.of([behind([1, 2], 2000, params)]))
    masked_again = 0
    for _ in range(params.calls):
        result = take_step(sampler, network, batch)
        assert result.head_rows == int((result.change.op == UNMASK).sum())
        masked_again += int((result.change.op == REMASK).sum())
        assert len(result.change.op) == result.head_rows + int((result.change.op == REMASK).sum())
        batch = result.batch
    assert masked_again > 200
    assert batch.tokens[:2].tolist() == [1, 2] and MASK not in batch.tokens


def test_what_is_filled_is_settled_where_nothing_is_masked_again():
    """Behind a loop's window, in front of the noise removal, and with eta = 0; not before."""
    sampler, network = Remdm(N, MASK), Table(torch.linspace(-1, 1, N))
    never = make_params(sampler="remdm", steps=8, remdm_eta=0.0)
    for params, since in ((PARAMS["cap"], 8), (PARAMS["rescale"], 8), (PARAMS["loop"], 7)):
        batch = sampler.begin(CanvasBatch.of([behind([1], 8, params), behind([1], 8, never)]))
        for i in range(9):
            filled = [7, 7, 7] + [MASK] * 5
            batch = batch.with_tokens(torch.tensor([1, *filled, 1, *filled]))
            settled = sampler.settled(batch).tolist()
            assert settled == [4 if i >= since else 1, 4], (params.own, i)
            batch = take_step(sampler, network, batch).batch
        assert sampler.settled(batch).tolist() == [9, 9]


def test_requests_with_all_schedules_share_a_batch():
    sampler, network = Remdm(12, 11), Hashed()
    canvases = [
        behind([3] * (i + 1), 9 + 4 * i, replace(p, seed=i, top_p=0.9))
        for i, p in enumerate(PARAMS.values())
    ]

    def run(some):
        batch = sampler.begin(CanvasBatch.of(some))
        for _ in range(9):
            batch = take_step(sampler, network, batch).batch
        return batch.tokens.tolist()

    assert run(canvases) == [t for canvas in canvases for t in run([canvas])]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("remdm_eta", 1.5),
        ("remdm_t_on", -0.1),
        ("remdm_t_off", 0.6),  # behind remdm_t_on
        ("remdm_alpha_on", 1.0),
        ("remdm_alpha_on", 0.0),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(InvalidParam) as caught:
        make_params(**{field: value})
    assert caught.value.field == field
