"""Likelihood bounds: the KL of one reverse step and the NELBO it sums to (eqs. 12-15).

All terms are written with a_t p_e + b_t k/N scaled by N, as in the paper's appendix, so that
nothing is divided by a rate that can be zero. Everything is differentiable and serves training as
well.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.noise_kernel import NoiseKernel

LEAST_RATIO = 1e-200
"""Below it k counts as 0: nothing differs that could be told, and b k would be no normal number."""


def _mean_log_f(log_p: Tensor, kernel: NoiseKernel, alpha: Tensor) -> Tensor:
    """(1/N) sum_e ln(N a p_e + b k), the uniform part of ln f over the vocabulary, [...]."""
    k, n = kernel.mixing_ratio, kernel.vocab_size
    return (n * alpha[..., None] * log_p.exp() + (1.0 - alpha[..., None]) * k).log().mean(-1)


def _uniform_term(log_p: Tensor, kernel: NoiseKernel, alpha: Tensor) -> Tensor:
    """(k b / a) mean_e ln(f(x, e) / f(p, e)). The mask's own entry cancels, since p_m = x_m = 0."""
    k, n = kernel.mixing_ratio, kernel.vocab_size
    if k < LEAST_RATIO:  # lim k ln k = 0
        return torch.zeros_like(alpha)
    beta = 1.0 - alpha
    clean = ((n - 1) * (beta * k).log() + (n * alpha + beta * k).log()) / n
    return k * beta / alpha * (clean - _mean_log_f(log_p, kernel, alpha))


def _at(log_p: Tensor, ids: Tensor) -> Tensor:
    """P at one id per position."""
    return log_p.gather(-1, ids[..., None])[..., 0].exp()


def nelbo_integrand(
    log_p: Float[Tensor, "*s N"],
    x: Int[Tensor, "*s"],
    z: Int[Tensor, "*s"],
    alpha: Float[Tensor, "*s"],
    kernel: NoiseKernel,
) -> Float[Tensor, "*s"]:
    """r(z)/f_t(x, z) h_t: eq. 15 without the factor -alpha'(t), with h_t of eq. 14.

    Args:
        log_p: log of the model's clean distribution [..., N], the mask suppressed where there is
            one.
        x: clean ids [...].
        z: noised ids [...].
        alpha: alpha_t [...].

    Returns:
        nats per position [...]. Multiply by ``schedule.rate`` and average over t for the NELBO.
    """
    if kernel.mixing_ratio < LEAST_RATIO:  # the limit k -> 0, eq. 17: cross entropy at masks
        nats = -log_p.gather(-1, x[..., None])[..., 0] / (1.0 - alpha)
        return torch.where(z == x, torch.zeros_like(nats), nats)
    n = kernel.vocab_size
    beta = 1.0 - alpha
    same = (z == x).to(log_p.dtype)
    p_x, p_z = _at(log_p, x), _at(log_p, z)
    rate_z, rate_x = (n * kernel.rate(ids, log_p.dtype) for ids in (z, x))
    fx_z = n * alpha * same + beta * rate_z  # N f_t(x, z)
    fp_z = n * alpha * p_z + beta * rate_z  # N f_t(p, z)
    h = (
        n * (same - p_z) / fp_z
        - (fx_z / fp_z).log() / alpha
        + ((n * alpha + beta * rate_x) / (n * alpha * p_x + beta * rate_x)).log()
        + _uniform_term(log_p, kernel, alpha)
    )
    return rate_z / fx_z * h


def step_kl(
    log_p: Float[Tensor, "*s N"],
    x: Int[Tensor, "*s"],
    z: Int[Tensor, "*s"],
    alpha_s: Float[Tensor, "*s"],
    alpha_t: Float[Tensor, "*s"],
    kernel: NoiseKernel,
) -> Float[Tensor, "*s"]:
    """KL(q(z_s | z, x) || q(z_s | z, p)) of one finite step s < t: eqs. 12 and 13. Nats, shape
    [...].

    Args: as ``nelbo_integrand``, with alpha_s > alpha_t.
    """
    n = kernel.vocab_size
    alpha_ts = alpha_t / alpha_s
    beta_ts = 1.0 - alpha_ts
    same = (z == x).to(log_p.dtype)
    p_x, p_z = _at(log_p, x), _at(log_p, z)
    rate_z, rate_x = (n * kernel.rate(ids, log_p.dtype) for ids in (z, x))
    fx_s, fp_s, fx_t, fp_t = (
        n * a * p + (1.0 - a) * rate_z for a in (alpha_s, alpha_t) for p in (same, p_z)
    )
    if kernel.mixing_ratio < LEAST_RATIO:
        nats = -(beta_ts * alpha_s / (1.0 - alpha_t)) * log_p.gather(-1, x[..., None])[..., 0]
        return torch.where(z == x, torch.zeros_like(nats), nats)
    # eq. 13's first term times eq. 12's factor, so that r(z) never divides
    stay = alpha_ts * fx_s / fx_t * ((fx_s * fp_t) / (fx_t * fp_s)).log()
    h = (
        -(fx_t / fp_t).log() / alpha_s
        + (
            (n * alpha_s + (1.0 - alpha_s) * rate_x)
            / (n * alpha_s * p_x + (1.0 - alpha_s) * rate_x)
        ).log()
        + _uniform_term(log_p, kernel, alpha_s)
    )
    return stay + beta_ts * alpha_s * rate_z / fx_t * h
