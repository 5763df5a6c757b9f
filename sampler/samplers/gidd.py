"""GIDD (von Rütte et al. 2025): masks with uniform noise whose share changes over time.

With B = 2 p_u / (1 - p_u), c_t = B sqrt(t (1 - t)) and C_t = 1 + c_t, a token at time t is itself
with probability alpha_t = (1 - t) / C_t, the mask with t / C_t, and any of the N - 1 others with
c_t / C_t, evenly: uniform noise never falls on the mask, and peaks in the middle. beta_pi_t names
the noise over all ids. The posterior is a mixture as XDLM's is, so the same coins sample it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.noise_kernel import ReverseMixture
from sampler.params import number, param
from sampler.philox import integers
from sampler.samplers.mixture import BranchFirst, BranchParams, BranchState
from sampler.schedules import times

LEAST_UNIFORM = math.exp(-20)
"""p_u is never less, in the official code too."""
LAST_TIME = 1e-8
"""The time that the noise removal leads to, as in the official code."""


@dataclass(frozen=True)
class GiddNoise:
    """The noise and its posterior, float64.

    Attributes:
        p_uniform: p_u, the share of uniform noise halfway through; a tensor gives each position its
            own (broadcast to the times).
        vocab_size: N, the mask included.
        mask_id: m.
    """

    p_uniform: float | Tensor
    vocab_size: int
    mask_id: int

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha_t, the mask's share, the uniform share) at times t of any shape; their sum is
        1.
        """
        p = torch.as_tensor(self.p_uniform, dtype=t.dtype).clamp(min=LEAST_UNIFORM)
        c = 2.0 * p / (1.0 - p) * (t * (1.0 - t)).sqrt()
        return (1.0 - t) / (1.0 + c), t / (1.0 + c), c / (1.0 + c)

    def beta_pi(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s N"]:
        """The noise over the vocabulary at times t."""
        _, mask, uniform = self.shares(t)
        ids = torch.arange(self.vocab_size, device=t.device)
        return torch.where(
            ids == self.mask_id, mask[..., None], uniform[..., None] / (self.vocab_size - 1)
        )

    def posterior(
        self,
        p: Float[Tensor, "*s N"],
        z: Int[Tensor, "*s"],
        s: Float[Tensor, "*s"],
        t: Float[Tensor, "*s"],
    ) -> Float[Tensor, "*s N"]:
        """q(z_s = . | z_t = z, x ~ p), written out over the vocabulary:
        q_s(e) (alpha_ts [e = z] + beta_pi_ts(z)) / q_t(z) with q_t = alpha_t p + beta_pi_t and
        beta_pi_ts = beta_pi_t - alpha_ts beta_pi_s.

        The readable reference: samplers never build it, tests compare with it.

        Args:
            p: model distribution [..., N], without mass on the mask.
            z: current ids [...].
            s, t: times [...], s < t.

        Returns:
            probabilities [..., N].
        """
        alpha_s, alpha_t = (self.shares(at)[0][..., None] for at in (s, t))
        alpha_ts = alpha_t / alpha_s
        q_s = alpha_s * p + self.beta_pi(s)
        q_t = alpha_t * p + self.beta_pi(t)
        beta_pi_ts = self.beta_pi(t) - alpha_ts * self.beta_pi(s)
        here = torch.arange(self.vocab_size, device=z.device) == z[..., None]
        jump = alpha_ts * here + beta_pi_ts.gather(-1, z[..., None])
        return q_s * jump / q_t.gather(-1, z[..., None])

    def mixture(self, z: Tensor, s: Tensor, t: Tensor) -> ReverseMixture:
        """The posterior as a mixture: L = beta_pi_ts(z) / (alpha_t p_z + beta_pi_t(z)), and a token
        that leaves goes where the forward marginal at time s takes the model's guess.

        Args:
            z: current ids.
            s, t: times of the same shape.
        """
        masked = z == self.mask_id
        alpha_s, mask_s, uniform_s = self.shares(s)
        alpha_t, mask_t, uniform_t = self.shares(t)
        others = self.vocab_size - 1
        here_s, here_t = (
            torch.where(masked, mask, uniform / others)
            for mask, uniform in ((mask_s, uniform_s), (mask_t, uniform_t))
        )
        return ReverseMixture(
            rate=here_t - alpha_t / alpha_s * here_s,
            signal=torch.where(masked, 0.0, alpha_t),
            here=here_t,
            to_model=alpha_s,
            to_uniform=uniform_s,
        )


@dataclass(frozen=True)
class GiddState(BranchState):
    """Columns: p_u, [B]."""

    p_uniform: Float[Tensor, " B"]


@dataclass(frozen=True)
class GiddParams(BranchParams):
    """Parameters of GIDD's posterior sampler."""

    state = GiddState
    p_uniform: float = param(
        number(
            0.0,
            "p_u, the share of uniform noise halfway",
            0,
            1,
            open_high=True,
            example=0.1,
            label="Uniform share",
        )
    )


@dataclass(frozen=True)
class Gidd(BranchFirst[GiddState]):
    """The posterior sampler of GIDD."""

    mask_id: int

    def begin(self, batch: CanvasBatch[GiddState]) -> CanvasBatch[GiddState]:
        """All editable positions start as masks."""
        return batch.masked(self.mask_id)

    def uniform_id(self, u: Tensor) -> Tensor:
        """Any of the N - 1 ids that are no mask."""
        ids = integers(u, self.vocab_size - 1)
        return ids + (ids >= self.mask_id).long()

    def mixture(self, batch: CanvasBatch[GiddState], masked: Bool[Tensor, "2 1"]) -> ReverseMixture:
        """The mixture of GIDD's posterior, on the official grid of times."""
        t, s = times(batch.step, batch.steps, batch.from_step, batch.from_time)
        s = torch.where(batch.step >= batch.steps, LAST_TIME, s)
        noise = GiddNoise(batch.own.p_uniform, self.vocab_size, self.mask_id)
        # any id that is no mask stands for the other tokens
        z = torch.where(masked, self.mask_id, -1).expand(2, batch.size)
        return noise.mixture(z, s.expand(2, -1), t.expand(2, -1))
