"""GIDD: the noise and its posterior as the official code has them, and the branch-first sampler
against that posterior.

False-alarm odds are stated with each statistical test; seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.params import InvalidParam
from sampler.samplers.gidd import Gidd, GiddNoise
from sampler.step import take_step
from tests.sampler.chance import assert_same_chains, chains, explicit_chains, odds, one_step
from tests.sampler.toy import Neighbours, Table
from tests.support.effort import count

N, MASK = 9, 8


def suppressed(logits, mask):
    return logits.double().masked_fill(torch.arange(logits.shape[-1]) == mask, -torch.inf)


@pytest.mark.parametrize("p_uniform", [0.0, 0.1, 0.2])
def test_noise_and_posterior_are_the_official_ones(golden, p_uniform):
    tensors = golden("gidd_helper").tensors
    of = {k.removeprefix(f"pu{p_uniform}."): v for k, v in tensors.items()}
    noise, t, s, z = GiddNoise(p_uniform, 20, 19), of["t"], of["s"], of["z_t"]
    close = {"rtol": 0, "atol": 1e-8}
    torch.testing.assert_close(noise.shares(t)[0], of["alpha_t"][:, 0], **close)
    # the least uniform noise is itself below 1e-8
    torch.testing.assert_close(noise.beta_pi(t), of["beta_pi_t"], rtol=1e-6, atol=0)
    p = suppressed(of["logits"], 19).softmax(-1)
    q = noise.posterior(p, z, s[:, None].expand(z.shape), t[:, None].expand(z.shape))
    torch.testing.assert_close(q, of["q_st"], **close)


def test_posterior_is_bayes_by_brute_force():
    """From forward matrices: that of s, and the one that takes it on to t."""
    noise, s, t = GiddNoise(0.3, 5, 2), torch.tensor(0.4).double(), torch.tensor(0.7).double()
    eye = torch.eye(5, dtype=torch.float64)
    q_s, q_t = (noise.shares(at)[0] * eye + noise.beta_pi(at) for at in (s, t))
    assert (q_t.sum(-1) - 1).abs().max() < 1e-15
    q_ts = torch.linalg.solve(q_s, q_t)
    assert (q_ts > 0).all() and (q_ts.sum(-1) - 1).abs().max() < 1e-15
    for x, z in itertools.product((0, 1, 3, 4), range(5)):
        bayes = q_s[x] * q_ts[:, z] / q_t[x, z]
        ours = noise.posterior(eye[x], torch.tensor(z), s, t)
        torch.testing.assert_close(ours, bayes, rtol=0, atol=1e-14)


@given(
    n=st.integers(3, 40),
    p_uniform=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 0.9]),
    t=st.floats(0.01, 1.0),
    gap=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=count(40, 100), deadline=None)
def test_mixture_is_the_posterior(n, p_uniform, t, gap, seed):
    """Where the mask stands among the ids is drawn too."""
    g = torch.Generator().manual_seed(seed)
    mask = int(torch.randint(n, (), generator=g))
    noise = GiddNoise(p_uniform, n, mask)
    p = suppressed(3 * torch.randn(64, n, generator=g), mask).softmax(-1)
    z = torch.randint(n, (64,), generator=g)
    z[torch.full((64,), t == 1.0)] = mask  # nothing else is possible there
    t, s = (torch.full((64,), at, dtype=torch.float64) for at in (t, t * (1 - gap)))
    reverse, ids = noise.mixture(z, s, t), torch.arange(n)
    leave = reverse.leave(p.gather(1, z[:, None])[:, 0])
    rest = (1 - reverse.to_model - reverse.to_uniform)[:, None]
    fresh = reverse.to_model[:, None] * p + torch.where(
        ids == mask, rest, reverse.to_uniform[:, None] / (n - 1)
    )
    mixture = (1 - leave)[:, None] * (ids == z[:, None]) + leave[:, None] * fresh
    dense = noise.posterior(p, z, s, t)
    assert (mixture - dense).abs().max() < 1e-12
    assert (dense.sum(-1) - 1).abs().max() < 1e-12
    assert (leave <= reverse.bound + 1e-12).all() and (leave >= 0).all()


@pytest.mark.parametrize(("z", "step"), [(MASK, 0), (MASK, 3), (2, 3), (MASK, 7), (2, 7)])
@pytest.mark.parametrize("p_uniform", [0.0, 0.1, 0.6])
def test_one_step_chi_square(step, p_uniform, z):
    """Many draws of one step against the explicit posterior. False alarm: 1e-6 in each case."""
    logits = torch.linspace(-2, 2, N)
    dt = (1 - 1e-5) / 8
    t, s = (torch.tensor(1 - at * dt).double() for at in (step, step + 1))
    p = suppressed(logits, MASK).softmax(-1)
    expected = GiddNoise(p_uniform, N, MASK).posterior(p, torch.tensor(z), s, t)
    params = make_params(sampler="gidd", steps=8, p_uniform=p_uniform, seed=5)
    assert odds(one_step(params, logits, MASK, z, step, count(100_000, 1_000_000)), expected) > 1e-6


def test_temperature_and_top_p_shape_the_guess():
    """Chi-square against the posterior of the sharpened, cut distribution; false alarm 1e-6."""
    logits = torch.linspace(-2, 2, N)
    p = suppressed(logits / 0.7, MASK).softmax(-1)
    order = p.argsort(descending=True)
    keep = order[p[order].cumsum(0) <= 0.8]
    cut = torch.zeros_like(p).index_put((keep,), p[keep])
    dt = (1 - 1e-5) / 8
    t, s = (torch.tensor(1 - at * dt).double() for at in (2, 3))
    params = make_params(sampler="gidd", steps=8, p_uniform=0.2, temperature=0.7, top_p=0.8, seed=5)
    for z in (MASK, 1, 7):
        q = GiddNoise(0.2, N, MASK).posterior(cut / cut.sum(), torch.tensor(z), s, t)
        assert odds(one_step(params, logits, MASK, z, 2, count(200_000, 500_000)), q) > 1e-6


@pytest.mark.parametrize("p_uniform", [0.0, 0.3])
def test_whole_chains(p_uniform):
    """Joint distribution of three positions after five steps and the last call, at t = 1e-8."""
    n, steps = 5, 5
    network, noise = Neighbours(n, seed=3), GiddNoise(p_uniform, n, n - 1)
    grid = [1 - i * (1 - 1e-5) / steps for i in range(steps)] + [1e-5, 1e-8]

    def posterior(i, p, z):
        s, t = (torch.full(z.shape, at, dtype=torch.float64) for at in (grid[i + 1], grid[i]))
        return noise.posterior(p, z, s, t)

    params = make_params(sampler="gidd", steps=steps, p_uniform=p_uniform, seed=11)
    runs = explicit_chains(network, n, steps + 1, posterior)
    assert_same_chains(chains(network, params, n), runs, n)


def test_requests_keep_their_own_share_of_uniform_noise():
    """Two shares side by side: what each gives alone. With none, what is written stays."""
    network, sampler = Table(torch.linspace(-1, 1, N)), Gidd(N, MASK)
    of = [
        ([1, *[0] * 40], [False, *[True] * 40], make_params(sampler="gidd", p_uniform=p, seed=i))
        for i, p in enumerate((0.0, 0.7))
    ]

    def run(canvases):
        batch, changed = sampler.begin(CanvasBatch.of(canvases)), 0
        for _ in range(33):
            before = batch.tokens
            batch = take_step(sampler, network, batch).batch
            changed += int(((before != batch.tokens) & (before != MASK)).sum())
        return batch.tokens.tolist(), changed

    alone = [run([canvas]) for canvas in of]
    assert run(of)[0] == alone[0][0] + alone[1][0]
    assert alone[0][1] == 0 and alone[1][1] > 10
    assert MASK not in alone[0][0] + alone[1][0] and alone[0][0][0] == 1


def test_the_last_call_goes_to_a_time_just_above_0():
    """There a mask is left one time in a thousand, of those that the steps left."""
    batch = CanvasBatch.of([([MASK], [True], make_params(sampler="gidd", steps=1))])
    masked = torch.tensor([[True], [False]])
    reverse = Gidd(N, MASK).mixture(batch.advanced(batch.tokens), masked)
    assert float(1 - reverse.bound[0]) == pytest.approx(1e-3, rel=1e-4)
    assert float(reverse.to_model[0]) == pytest.approx(1 - 1e-8, abs=1e-12)


def test_the_last_call_may_take_the_mode_everywhere():
    logits = torch.linspace(-2, 2, N)
    params = make_params(sampler="gidd", steps=2, p_uniform=0.1, noise_removal="greedy")
    assert params.calls == 3
    for z in (MASK, 3):
        counts = one_step(params, logits, MASK, z, 2, 1000)
        assert counts[7] == 1000  # the likeliest id that is no mask


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_share_out_of_range_is_refused_by_name(value):
    with pytest.raises(InvalidParam) as caught:
        make_params(p_uniform=value)
    assert caught.value.field == "p_uniform"
