"""The formulas against vectors produced by the official code."""

from __future__ import annotations

import pytest
import torch

from sampler.likelihood.nelbo import nelbo_integrand, step_kl
from sampler.logits.categorical import inverse_cdf, nucleus
from sampler.noise_kernel import NoiseKernel
from sampler.schedules import LogLinearSchedule


def kernel_of(case) -> NoiseKernel:
    return NoiseKernel(case["k1"], case["vocab"], case["mask_id"])


def test_posterior(golden):
    for case, t in golden("xdm_posterior").cases():
        kernel = kernel_of(case)
        p = kernel.suppress_mask(t["logits"]).softmax(-1)
        alpha_s, alpha_t = (t[n][:, None].expand(t["z_t"].shape) for n in ("alpha_s", "alpha_t"))
        q = kernel.posterior(p, t["z_t"], alpha_s, alpha_t)
        torch.testing.assert_close(q, t["q_s"], rtol=1e-12, atol=1e-12, msg=str(case))


def test_kl(golden):
    for case, t in golden("xdm_kl").cases():
        kernel = kernel_of(case)
        log_p = kernel.suppress_mask(t["logits"]).log_softmax(-1)
        x, z = t["x0"], t["z_t"]
        alpha_s, alpha_t = (t[n][:, None].expand(x.shape) for n in ("alpha_s", "alpha_t"))
        simple = nelbo_integrand(log_p, x, z, alpha_t, kernel)
        close = {"rtol": 1e-6, "atol": 1e-6, "msg": str(case)}
        torch.testing.assert_close(simple, t["kl_simp"], **close)
        rate = LogLinearSchedule().rate
        torch.testing.assert_close(simple * rate, t["kl_limit_scaled0999"], **close)
        finite = step_kl(log_p, x, z, alpha_s, alpha_t, kernel)
        torch.testing.assert_close(finite, t["kl_finite"], **close)


def test_forward_and_prior(golden):
    for case, t in golden("xdm_forward_prior").cases():
        kernel = kernel_of(case)
        z = kernel.noise(t["x0"], t["alpha_t"][:, None], t["rand"], t["transfer_id"])
        assert torch.equal(z, t["z_t"]), case
        assert torch.equal(kernel.prior(t["prior_rand"], t["prior_transfer_id"]), t["prior"]), case


def test_nucleus(golden):
    t = golden("categorical_nucleus").tensors
    probs = t["nucleus.probs"].flatten(0, 1)
    for top_p in (0.1, 0.5, 0.9, 0.95):
        limit = torch.full((len(probs),), top_p, dtype=torch.float64)
        for may_ask in (False, True):
            kept = nucleus(probs, limit, may_ask)
            full = kept / kept.sum(-1, keepdim=True)
            expected = t[f"nucleus.p{top_p}"].flatten(0, 1)
            torch.testing.assert_close(full, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("width", [90, 500, 1280, 4480])
def test_a_nucleus_is_the_same_whether_all_are_sorted_or_the_large_alone(width):
    """Peaked, flat and tied rows; ties go to the lower id."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(300, width, generator=g).mul(torch.linspace(0, 8, 300)[:, None])
    weights[::3] = weights[::3].round()  # ties
    weights[::7] = weights[::7].bfloat16().float()
    weights = (weights - weights.amax(-1, keepdim=True)).exp()
    top_p = torch.rand(300, generator=g).double().clamp(min=0.05)
    asked = nucleus(weights, top_p, may_ask=True)
    assert torch.equal(nucleus(weights, top_p), asked)
    assert torch.equal(nucleus(weights, top_p, at_once=7 * width), asked)
    rows = zip(weights.split(1), top_p.split(1), strict=True)
    assert torch.equal(torch.cat([nucleus(*row, may_ask=True) for row in rows]), asked)
    below = weights * (asked == 0)
    least = torch.where(asked > 0, asked, torch.inf).amin(-1)
    assert bool((below.amax(-1) <= least).all())


@pytest.mark.parametrize("name", ["float32_nat", "float32_f64", "float64_nat"])
def test_categorical_draws_from_the_same_distribution(golden, name):
    """Ours is an inverse CDF, so ids differ from the official Gumbel draws; what they draw from may
    not.

    The stored probabilities are cut into 10 000 equal quantiles: the share of each id must be its
    probability to within one quantile.
    """
    probs = golden("categorical_nucleus").tensors[f"{name}.probs"].flatten(0, 1)
    quantiles = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for p in probs:
        ids, weights, total = inverse_cdf(p.expand(len(quantiles), -1), quantiles)
        share = torch.bincount(ids, minlength=len(p)).double() / len(quantiles)
        expected = p.double() / p.double().sum()
        assert (share - expected).abs().max() <= 2 / len(quantiles)
        assert torch.equal(weights, p[ids].double())
        assert torch.allclose(total, p.double().sum())


def test_mdlm_is_k_0(golden):
    t = golden("mdlm_udlm_fp64").tensors
    kernel = NoiseKernel(0.0, 20, 19)
    log_p = kernel.suppress_mask(t["mdlm.logits"]).log_softmax(-1)
    masked = t["mdlm.xt"] == 19
    theirs = t["mdlm.log_x_theta"][masked][:, :19]
    torch.testing.assert_close(log_p[masked][:, :19], theirs, rtol=0, atol=1e-12)
    alpha = t["udlm.alpha_t"].expand(masked.shape)
    nll = nelbo_integrand(log_p, t["mdlm.x0"], t["mdlm.xt"], alpha, kernel) * 0.999
    torch.testing.assert_close(nll, t["mdlm.nll"], rtol=1e-12, atol=0)


def test_udlm_is_k_1_without_a_mask(golden):
    t = golden("mdlm_udlm_fp64").tensors
    kernel = NoiseKernel(1.0, 20, None)
    x, z, log_p = t["udlm.x0"], t["udlm.xt"], t["udlm.log_x_theta"]
    alpha_s, alpha_t = (t[f"udlm.{n}"].expand(x.shape) for n in ("alpha_s", "alpha_t"))
    q = kernel.posterior(log_p.exp(), z, alpha_s, alpha_t)
    torch.testing.assert_close(q, t["udlm.posterior"], rtol=1e-12, atol=1e-12)
    nll = nelbo_integrand(log_p, x, z, alpha_t, kernel) * 0.999
    torch.testing.assert_close(nll, t["udlm.nll"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "k", "mask_id", "last_call"),
    [
        ("traj_xdlm_k0.1_gpt2like", 0.1, 32, True),
        ("traj_xdlm_img_nocfg", 0.1, 30, False),
        ("traj_mdlm_gpt2like", 0.0, 32, True),
        ("traj_udlm", 1.0, None, True),
    ],
)
def test_every_step_of_an_official_trajectory(golden, name, k, mask_id, last_call):
    """The stored network outputs, times and states give the stored posteriors, step by step."""
    t = golden(name).tensors
    kernel, schedule = NoiseKernel(k, 33, mask_id), LogLinearSchedule()
    calls = len(t["step_x"])
    step = torch.arange(calls)
    alpha_s, alpha_t = schedule.grid(step, torch.full_like(step, calls - last_call))
    torch.testing.assert_close(
        alpha_t, schedule.alpha(t["step_t"][:, 0].double()), rtol=0, atol=1e-6
    )
    for i in range(calls):
        z = t["step_x"][i]
        p = kernel.suppress_mask(t["model_out"][i].double()).softmax(-1)
        q = kernel.posterior(p, z, alpha_s[i].expand(z.shape), alpha_t[i].expand(z.shape))
        official = t["step_q_xs"][i].double()
        official /= official.sum(-1, keepdim=True)
        if k == 0.0:  # there, unmasked rows carry one-hot weights and are kept apart
            q, official = (v[z == mask_id] for v in (q, official))
        torch.testing.assert_close(q, official, rtol=0, atol=1e-6)
