"""Noise schedules (signal left at time t, the grid of times a sampler walks) and the budgets of the
hybrid sampler (how many masks to fill and how many tokens to refine at each step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sampler.params import OWNERS, InvalidParam, SamplingParams

T_MIN = 1e-5
"""The last time of the grid, as in the official code."""


@dataclass(frozen=True)
class LogLinearSchedule:
    """alpha(t) falls in a line, from 1 to 1e-3 in the paper's code.

    Attributes:
        alpha_0: signal at t = 0.
        alpha_1: signal left at t = 1.
    """

    alpha_0: float = 1.0
    alpha_1: float = 1e-3

    @property
    def rate(self) -> float:
        """-alpha'(t), the factor of the NELBO integrand (eq. 15)."""
        return self.alpha_0 - self.alpha_1

    def alpha(self, t: Tensor) -> Tensor:
        """Share of signal at times t in [0, 1], any shape."""
        return self.alpha_0 - self.rate * t

    def grid(
        self,
        step: Tensor,
        steps: Tensor,
        from_step: Tensor | int = 0,
        from_time: Tensor | float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """(alpha_s, alpha_t) at a call, both float64; arguments as in ``times``.

        At the noise removal alpha_s = 1, so that the clean guess itself is drawn.
        """
        t, s = times(step, steps, from_step, from_time)
        return torch.where(step >= steps, 1.0, self.alpha(s)), self.alpha(t)


SCHEDULES = {
    "log_linear": LogLinearSchedule(),
    "llada": LogLinearSchedule(alpha_0=1.0 - 1e-3, alpha_1=0.0),
}
"""By name: that of the paper's DiT models, and the one that LLaDA and LLaDA-XDLM were trained
with.
"""


def times(
    step: Tensor, steps: Tensor, from_step: Tensor | int = 0, from_time: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """(t, s) of denoising step i of a request of T steps, both float64.

    Official time grid: t_i = 1 - i dt with dt = (1 - t_min) / T, and s = t_i - dt. The call at
    i = T is the noise removal, at t = t_min.

    Args:
        step: i in 0..T, integers of any shape.
        steps: T >= 1, same shape.
        from_step, from_time: where the grid begins, for requests that were shortened.
    """
    dt = (from_time - T_MIN) / (steps - from_step).clamp(min=1).double()
    t = from_time - (step - from_step) * dt
    return torch.where(step >= steps, T_MIN, t), t - dt


def grids(
    noise_schedule: Tensor, step: Tensor, steps: Tensor, from_step: Tensor, from_time: Tensor
) -> tuple[Tensor, Tensor]:
    """(alpha_s, alpha_t) as ``LogLinearSchedule.grid``, each entry by its own schedule (an index
    into ``SCHEDULES``); all [B].
    """
    at = (step, steps, from_step, from_time)
    alphas = torch.stack([torch.stack(s.grid(*at)) for s in SCHEDULES.values()])
    alpha_s, alpha_t = alphas[noise_schedule, :, torch.arange(len(step), device=step.device)].T
    return alpha_s, alpha_t


def absorb_budget(masked: int, steps: int) -> list[int]:
    """Masks to fill at each of a block's steps: as even as whole numbers allow, more at first."""
    whole, rest = divmod(masked, steps)
    return [whole + (i < rest) for i in range(steps)]


def refine_budget(absorb: Sequence[int], mixing_ratio: float) -> list[int]:
    """Tokens to refine at each of a block's steps: after i steps, k / (1 - k) of the masks filled.

    The cumulative rule of the LLaDA-XDLM code, in fp32 as there; the first step refines nothing.
    """
    filled = torch.tensor(list(accumulate(absorb)), dtype=torch.float32)
    refined = (filled * mixing_ratio / (1.0 - mixing_ratio)).long()
    refined[:1] = 0
    return [*refined[:1].tolist(), *refined.diff().tolist()]


@dataclass(frozen=True)
class StepPlan:
    """What the hybrid sampler does at each step of one request: three lists of T numbers.

    Attributes:
        block: the active block.
        absorb: masks to fill.
        refine: tokens to refine.
    """

    block: list[int]
    absorb: list[int]
    refine: list[int]


def step_plan(params: SamplingParams, masked: int) -> StepPlan:
    """Plan a canvas with so many masked positions. Other samplers need none: theirs is empty.

    Steps are shared among the blocks as evenly as whole numbers allow.

    Raises:
        InvalidParam: budgets, blocks and steps that do not fit the canvas.
    """
    length = min(params.block_length or masked, masked) or 1
    blocks = max(1, -(-masked // length))
    if params.sampler in OWNERS["block_length"] and params.steps < blocks:
        raise InvalidParam("steps", f"must be at least the number of blocks, {blocks}")
    if params.sampler != "topk":
        return StepPlan([], [], [])
    if params.compat == "official" and (masked % length or params.steps % blocks):
        raise InvalidParam("block_length", "must divide the length and give a divisor of steps")
    if params.topk_absorb != "even" and sum(params.topk_absorb) != masked:
        total = sum(params.topk_absorb)
        raise InvalidParam("topk_absorb", f"must sum to the {masked} masked positions, not {total}")
    plan = StepPlan([], [], [])
    for b, steps in enumerate(absorb_budget(params.steps, blocks)):
        now = slice(len(plan.block), len(plan.block) + steps)
        absorb = absorb_budget(min(length, masked - b * length), steps)
        if params.topk_absorb != "even":
            absorb = list(params.topk_absorb[now])
        refine = refine_budget(absorb, params.mixing_ratio)
        if params.topk_uniform != "auto":
            refine = list(params.topk_uniform[now])
        plan.block.extend([b] * steps)
        plan.absorb.extend(absorb)
        plan.refine.extend(refine)
    return plan
