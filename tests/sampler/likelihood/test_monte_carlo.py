"""Scores: unbiased by brute force over a small vocabulary, their standard error, their samples."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from sampler.likelihood.monte_carlo import ScoreParams, noised, sample_nats, standard_error
from sampler.likelihood.nelbo import nelbo_integrand
from sampler.noise_kernel import NoiseKernel
from sampler.params import InvalidParam
from sampler.schedules import SCHEDULES
from tests.sampler.toy import Hashed, Neighbours

N, MASK = 5, 4
TEXT = torch.tensor([2, 0, 3])
ALL = torch.arange(3)


def scored(network, params: ScoreParams, tokens=TEXT, where=ALL, kernel=None) -> torch.Tensor:
    kernel = kernel or NoiseKernel(params.mixing_ratio, N, MASK)
    samples = torch.arange(params.samples)
    return sample_nats(network, tokens, where, samples, kernel, params)


def exact_nelbo(network, params: ScoreParams, points: int = 400) -> torch.Tensor:
    """[3] nats of each token: all states, and the middles of many small pieces of time."""
    kernel, schedule = (
        NoiseKernel(params.mixing_ratio, N, MASK),
        SCHEDULES[params.noise_schedule],
    )
    states = torch.tensor(list(itertools.product(range(N), repeat=3)))
    hidden = network.trunk(
        states.flatten(), 3 * torch.arange(len(states) + 1), torch.arange(states.numel())
    )
    log_p = kernel.suppress_mask(hidden.double()).log_softmax(-1).view(len(states), 3, N)
    total = torch.zeros(3, dtype=torch.float64)
    for t in (torch.arange(points, dtype=torch.float64) + 0.5) / points:
        alpha = schedule.alpha(t)
        here = (states == TEXT).double()
        chance = kernel.f(alpha, here, states).prod(-1, keepdim=True)
        clean = TEXT.expand(states.shape)
        terms = nelbo_integrand(log_p, clean, states, alpha.expand(states.shape), kernel)
        total += torch.where(chance > 0, chance * terms, 0.0).sum(0) * schedule.rate / points
    return total


@pytest.mark.parametrize("schedule", ["log_linear", "llada"])
@pytest.mark.parametrize("k", [0.0, 0.1, 1.0])
def test_the_mean_over_samples_is_the_bound(k, schedule):
    """Each of three tokens within 5 standard deviations: false alarms 2e-6 a case."""
    network = Neighbours(N, seed=3)
    params = ScoreParams("nelbo", 40_000, k, schedule, seed=5)
    nats = scored(network, params)
    spread = nats.std(0) / len(nats) ** 0.5
    error = (nats.mean(0) - exact_nelbo(network, params)).abs()
    assert (error < 5 * spread + 2e-3).all()


def test_lladas_estimate_is_the_mean_over_masked_sets():
    network = Neighbours(N, seed=3)
    expected = torch.zeros(3, dtype=torch.float64)
    kernel = NoiseKernel(0.0, N, MASK)
    for count in (1, 2, 3):
        sets = list(itertools.combinations(range(3), count))
        for masked in sets:
            z = TEXT.clone()
            z[list(masked)] = MASK
            hidden = network.trunk(z, torch.tensor([0, 3]), ALL)
            log_p = kernel.suppress_mask(hidden.double()).log_softmax(-1)
            for i in masked:
                expected[i] -= 3 / count * log_p[i, TEXT[i]] / len(sets) / 3
    nats = scored(network, ScoreParams("llada", 30_000, seed=2), kernel=kernel)
    spread = nats.std(0) / len(nats) ** 0.5
    assert ((nats.mean(0) - expected).abs() < 5 * spread).all()


@pytest.mark.parametrize("estimator", ["nelbo", "llada"])
def test_the_standard_error_is_the_spread_between_seeds(estimator):
    """300 seeds: the spread is known to 4 %, the mean error to less; the bounds are five of those.

    Their texts are long enough for the trend over time to show.
    """
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(11, (24,), generator=g)
    where = torch.arange(4, 24)
    kernel = NoiseKernel(0.0 if estimator == "llada" else 0.1, 12, 11)
    means, errors = [], []
    for seed in range(300):
        params = ScoreParams(estimator, 16, seed=seed)
        totals = scored(Hashed(), params, tokens, where, kernel).sum(-1)
        means.append(float(totals.mean()))
        errors.append(standard_error(totals))
    told = statistics.mean(e * e for e in errors) ** 0.5
    assert 0.8 < told / statistics.stdev(means) < 1.3


def test_samples_in_parts_equal_samples_at_once():
    network, params = Neighbours(N, seed=3), ScoreParams(samples=10, seed=1)
    kernel, whole = NoiseKernel(0.1, N, MASK), scored(network, params)
    parts = [
        sample_nats(network, TEXT, ALL, torch.arange(10)[part], kernel, params)
        for part in (slice(0, 3), slice(3, 10))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(scored(network, ScoreParams(samples=10, seed=2)), whole)


@pytest.mark.parametrize("estimator", ["nelbo", "llada"])
def test_given_tokens_are_never_noised(estimator):
    params, where = ScoreParams(estimator, 200, 0.3), torch.tensor([1, 2])
    draw = noised(TEXT, where, torch.arange(200), NoiseKernel(0.3, N, MASK), params)
    assert (draw.tokens[:, 0] == TEXT[0]).all()
    assert (draw.tokens[:, 1:] != TEXT[1:]).any(0).all()


def test_times_and_masked_counts_are_spread_evenly():
    kernel = NoiseKernel(0.1, N, MASK)
    for seed in range(50):
        params = ScoreParams(samples=8, seed=seed)
        alpha = noised(TEXT, ALL, torch.arange(8), kernel, params).alpha.sort().values
        gaps = alpha.diff()
        assert gaps.min() > 0.12 and gaps.max() < 0.13
        params = ScoreParams("llada", 6, seed=seed)
        draw = noised(TEXT, ALL, torch.arange(6), kernel, params)
        assert draw.wanted.sum(-1).sort().values.tolist() == [1, 1, 2, 2, 3, 3]


def test_a_single_sample_has_no_error():
    params = ScoreParams(samples=1)
    assert math.isnan(standard_error(scored(Neighbours(N, 3), params).sum(-1)))


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"mixing_ratio": 1.5}, {"seed": 2**63}],
)
def test_wrong_choices_are_named(wrong):
    with pytest.raises(InvalidParam) as error:
        ScoreParams(**wrong)
    assert error.value.field in wrong
