"""Noise schedules: signal left at time t, and the grid of times that a sampler walks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
