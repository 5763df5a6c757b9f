"""Monte Carlo estimates of how likely a text is under the model.

Both noise the text, ask the model for the clean one and weigh its answers, so that the mean over
samples is an upper bound of -ln p(text), in nats. Tokens that are not scored are given: they are
never noised.

``nelbo``: eq. 15 of the paper. The samples' times divide (0, 1) evenly behind one random start
(t = u + i/S mod 1, as the paper's code spreads them over a batch).

``llada``: LLaDA's conditional likelihood. A sample masks exactly l of the n scored tokens, where
the l of all samples divide 1..n as evenly, and counts n/l times the cross entropy at the masks. It
takes no uniform noise, whatever the checkpoint was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.interface import Denoiser
from sampler.likelihood.nelbo import nelbo_integrand
from sampler.logits.head import logits_of
from sampler.logits.row_requests import rows_at_once
from sampler.noise_kernel import NoiseKernel
from sampler.params import (
    MIXING_RATIO,
    NOISE_SCHEDULE,
    SEED_LIMIT,
    check_choice,
    check_integer,
)
from sampler.philox import Role, integers, uniforms
from sampler.schedules import SCHEDULES, T_MIN

Estimator = Literal["nelbo", "llada"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
MAX_SAMPLES = 1 << 16


@dataclass(frozen=True)
class ScoreParams:
    """How a text is scored.

    Attributes:
        estimator: ``nelbo`` or ``llada``.
        samples: Monte Carlo samples S.
        mixing_ratio: (nelbo) k of the noise.
        noise_schedule: (nelbo) signal over time, as the checkpoint was trained.
        seed: fixes every random number.

    Raises:
        InvalidParam: naming the field.
    """

    estimator: Estimator = "nelbo"
    samples: int = 32
    mixing_ratio: float = 0.1
    noise_schedule: str = "log_linear"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_integer("samples", self.samples, 1, MAX_SAMPLES)
        MIXING_RATIO.check("mixing_ratio", self.mixing_ratio)
        NOISE_SCHEDULE.check("noise_schedule", self.noise_schedule)
        check_integer("seed", self.seed, -SEED_LIMIT, SEED_LIMIT - 1)


@dataclass(frozen=True)
class Noised:
    """Some samples of a text.

    Attributes:
        tokens: of the whole canvas.
        wanted: scored tokens whose nats depend on the model's answer; the others count 0.
        alpha: signal left (nelbo).
        weight: what the nats of a sample are multiplied by.
    """

    tokens: Int[Tensor, "S L"]
    wanted: Tensor
    alpha: Float[Tensor, " S"]
    weight: Float[Tensor, " S"]


def noised(
    tokens: Int[Tensor, " L"],
    scored: Int[Tensor, " n"],
    samples: Int[Tensor, " S"],
    kernel: NoiseKernel,
    params: ScoreParams,
) -> Noised:
    """Samples of a text by their numbers, each below ``params.samples``.

    Args:
        tokens: ids of the canvas.
        scored: its positions that are scored.
        samples: which of the samples.
        kernel: with the mixing ratio of ``params``.
        params: the choices.
    """
    seed = torch.full_like(samples, params.seed)
    zero = torch.zeros_like(samples)
    start, _ = uniforms(seed, zero, zero, Role.TIME)  # the same for all samples
    u, v = uniforms(seed[:, None], samples[:, None], scored[None], Role.NOISE)
    clean = tokens[scored].expand(len(samples), -1)
    t = (start + samples / params.samples) % 1.0
    if params.estimator == "nelbo":
        schedule = SCHEDULES[params.noise_schedule]
        alpha = schedule.alpha(t.clamp(T_MIN, 1.0 - T_MIN))
        noise = kernel.noise(clean, alpha[:, None], u, integers(v, kernel.vocab_size))
        weight = torch.full_like(alpha, schedule.rate)
        wanted = torch.ones_like(noise, dtype=torch.bool)
        if params.mixing_ratio == 0.0:
            wanted = noise != clean
    else:
        count = len(scored)
        masked = 1 + integers(t, count)
        wanted = u.argsort(-1).argsort(-1) < masked[:, None]
        assert kernel.mask_id is not None
        noise = torch.where(wanted, kernel.mask_id, clean)
        alpha, weight = 1.0 - masked / count, count / masked
    canvas = tokens.repeat(len(samples), 1)
    canvas[:, scored] = noise
    return Noised(canvas, wanted, alpha.double(), weight.double())


@torch.inference_mode()
def sample_nats(
    network: Denoiser,
    tokens: Int[Tensor, " L"],
    scored: Int[Tensor, " n"],
    samples: Int[Tensor, " S"],
    kernel: NoiseKernel,
    params: ScoreParams,
) -> Float[Tensor, "S n"]:
    """Nats of each scored token in each of some samples; their mean over all samples is the bound.

    The network runs once over the S canvases; logits exist for a chunk of rows at a time. Not
    finite where the model's numbers are not. Arguments as ``noised``.
    """
    draw = noised(tokens, scored, samples, kernel, params)
    sample, place = torch.nonzero(draw.wanted, as_tuple=True)
    nats = torch.zeros(draw.wanted.shape, dtype=torch.float64, device=tokens.device)
    if not sample.numel():
        return nats
    length = len(tokens)
    offsets = length * torch.arange(len(samples) + 1, device=tokens.device)
    rows = sample * length + scored[place]
    hidden = network.trunk(draw.tokens.flatten(), offsets, rows)
    x, z = tokens[scored[place]], draw.tokens.flatten()[rows]
    alpha, weight = draw.alpha[sample], draw.weight[sample]
    chunk = rows_at_once(kernel.vocab_size, tokens.device)
    for start in range(0, len(rows), chunk):
        part = slice(start, min(start + chunk, len(rows)))
        log_p = _log_p(network.head, hidden[part], kernel)
        if params.estimator == "nelbo":
            terms = nelbo_integrand(log_p, x[part], z[part], alpha[part], kernel)
        else:
            terms = -log_p.gather(-1, x[part, None])[:, 0]
        nats[sample[part], place[part]] = weight[part] * terms
    return nats


def _log_p(head: Callable[[Tensor], Tensor], hidden: Tensor, kernel: NoiseKernel) -> Tensor:
    """Log of the clean distribution [R, N] in float64."""
    logits = logits_of(head, hidden, kernel.vocab_size)
    return kernel.suppress_mask(logits.double()).log_softmax(-1)


def standard_error(totals: Float[Tensor, " S"]) -> float:
    """Standard error of the mean of all samples' totals, in their order; not a number for one.

    The samples go round evenly in time, so that neighbours differ by chance and little else: the
    sum of their squared differences, over 2 S^2. (The plain formula counts the trend over time as
    chance.) The jump from the end of time to its beginning is in it, which errs on the safe side.
    """
    count = len(totals)
    if count < 2:
        return math.nan
    return math.sqrt(float((totals - totals.roll(1)).square().sum()) / 2) / count
