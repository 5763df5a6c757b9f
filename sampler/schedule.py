"""Noise schedules: how much signal is left at time t, and the grid of times that a sampler
walks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogLinearSchedule:
    """alpha(t) = 1 - (1 - eps) t, the schedule of the paper's code.

    Attributes:
        eps: signal left at t = 1 (1e-3 in the official code).
        t_min: the last time of the grid (1e-5 in the official code).
    """

    eps: float = 1e-3
    t_min: float = 1e-5

    @property
    def rate(self) -> float:
        """-alpha'(t), the factor of the NELBO integrand (eq. 15)."""
        return 1.0 - self.eps

    def alpha(self, t: Tensor) -> Tensor:
        """Share of signal at times t in [0, 1], any shape."""
        return 1.0 - (1.0 - self.eps) * t

    def grid(self, step: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_s, alpha_t) of denoising step i of a request of T steps, both float64.

        Official time grid: t_i = 1 - i dt with dt = (1 - t_min) / T, and s = t_i - dt. The call at
        i = T is the noise removal: t = t_min and alpha_s = 1, so that the clean guess itself is
        drawn.

        Args:
            step: i in 0..T, integers of any shape.
            steps: T >= 1, same shape.
        """
        dt = (1.0 - self.t_min) / steps.double()
        t = 1.0 - step * dt
        last = step >= steps
        alpha_t = self.alpha(torch.where(last, self.t_min, t))
        alpha_s = torch.where(last, 1.0, self.alpha(t - dt))
        return alpha_s, alpha_t
