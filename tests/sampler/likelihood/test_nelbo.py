"""The likelihood bound: dense sums by brute force, limits, and the bound itself."""

from __future__ import annotations

import pytest
import torch

from sampler.likelihood.nelbo import nelbo_integrand, step_kl
from sampler.noise_kernel import NoiseKernel
from sampler.schedules import LogLinearSchedule
from tests.support.effort import count


def case(k: float, n: int = 12, rows: int = 200):
    g = torch.Generator().manual_seed(4)
    kernel = NoiseKernel(k, n, n - 1)
    logits = 2 * torch.randn(rows, n, generator=g, dtype=torch.float64)
    x = torch.randint(n - 1, (rows,), generator=g)
    z = torch.randint(n, (rows,), generator=g)
    if k == 0.0:
        z = torch.where(torch.rand(rows, generator=g) < 0.5, x, n - 1)
    return kernel, kernel.suppress_mask(logits).log_softmax(-1), x, z


@pytest.mark.parametrize("k", [0.0, 0.05, 0.5, 1.0])
def test_step_kl_is_the_kl_of_the_two_posteriors(k):
    kernel, log_p, x, z = case(k)
    alpha_s, alpha_t = (torch.full(x.shape, a, dtype=torch.float64) for a in (0.6, 0.35))
    clean = torch.nn.functional.one_hot(x, kernel.vocab_size).double()
    q = kernel.posterior(clean, z, alpha_s, alpha_t)
    p = kernel.posterior(log_p.exp(), z, alpha_s, alpha_t)
    dense = torch.where(q > 0, q * (q.clamp_min(1e-300) / p.clamp_min(1e-300)).log(), 0.0).sum(-1)
    ours = step_kl(log_p, x, z, alpha_s, alpha_t, kernel)
    torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [0.0, 0.05, 0.5, 1.0])
def test_integrand_is_the_limit_of_the_step(k):
    kernel, log_p, x, z = case(k)
    alpha_t = torch.full(x.shape, 0.4, dtype=torch.float64)
    gap = 1e-7
    step = step_kl(log_p, x, z, alpha_t + gap, alpha_t, kernel) / gap
    limit = nelbo_integrand(log_p, x, z, alpha_t, kernel)
    torch.testing.assert_close(step, limit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [5e-324, 1e-310, 1e-199, 1e-100, 1e-30])
def test_the_smallest_k_is_as_good_as_none(k):
    _, log_p, x, z = case(0.0)
    for alpha in (1e-3, 0.5, 0.999):
        alpha_t = torch.full(x.shape, alpha, dtype=torch.float64)
        for of_k in (
            lambda kernel, a=alpha_t: nelbo_integrand(log_p, x, z, a, kernel),
            lambda kernel, a=alpha_t: step_kl(log_p, x, z, (1 + a) / 2, a, kernel),
        ):
            none, tiny = (of_k(NoiseKernel(ratio, 12, 11)) for ratio in (0.0, k))
            torch.testing.assert_close(tiny, none, rtol=1e-9, atol=1e-9)


def test_a_small_k_approaches_mdlm():
    _, log_p, x, z = case(0.0)
    alpha = torch.full(x.shape, 0.4, dtype=torch.float64)
    exact = nelbo_integrand(log_p, x, z, alpha, NoiseKernel(0.0, 12, 11))
    near = nelbo_integrand(log_p, x, z, alpha, NoiseKernel(1e-9, 12, 11))
    torch.testing.assert_close(near, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("k", [0.0, 0.1, 1.0])
def test_the_integral_bounds_the_likelihood(k):
    """One token and an optimal model: the NELBO must equal the entropy of the data.

    The posterior weighs the guess by the evidence of z itself (eq. 11), so the best guess is what
    is known without z: for a single token, the distribution of the data. Then eq. 15 integrates to
    the entropy, less what the prior still knows at t = 1 (a(1) = 0.001, below 1e-3 nats here).
    """
    n = 6
    kernel, schedule = NoiseKernel(k, n, n - 1), LogLinearSchedule()
    data = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03, 0.0], dtype=torch.float64)
    entropy = -(data[:-1] * data[:-1].log()).sum()
    ids = torch.arange(n)
    total, points = 0.0, count(1_000, 4_000)
    for t in 1e-6 + (1 - 1e-6) * (torch.arange(points, dtype=torch.float64) + 0.5) / points:
        alpha = schedule.alpha(t)
        forward = alpha * torch.eye(n, dtype=torch.float64) + (1 - alpha) * kernel.rate(ids)
        joint = data[:, None] * forward  # x, z
        x, z = (v.flatten() for v in torch.meshgrid(ids[:-1], ids, indexing="ij"))
        terms = nelbo_integrand(data.log().expand(len(z), n), x, z, alpha.expand(x.shape), kernel)
        weight = joint[x, z]
        total += float(torch.where(weight > 0, weight * terms, 0.0).sum()) * schedule.rate / points
    assert abs(total - float(entropy)) < 5e-3


def test_schedule_follows_the_official_grid():
    schedule, steps = LogLinearSchedule(), 8
    step = torch.arange(steps + 1)
    alpha_s, alpha_t = schedule.grid(step, torch.full_like(step, steps))
    dt = (1 - 1e-5) / steps
    for i in range(steps):
        t = 1 - i * dt
        assert alpha_t[i] == pytest.approx(1 - 0.999 * t, abs=1e-15)
        assert alpha_s[i] == pytest.approx(1 - 0.999 * (t - dt), abs=1e-15)
    assert alpha_t[-1] == pytest.approx(1 - 0.999e-5, abs=1e-15) and alpha_s[-1] == 1.0
    assert (alpha_s > alpha_t).all()
