"""Exact ancestral sampling, branch first: eq. 11 without ever building a posterior.

The posterior is a mixture (see ``docs/samplers.md``): keep z with probability 1 - L, otherwise draw
x0 from the model and noise it again with the forward marginal at time s. With k = 0 this is MDLM,
with k = 1 and no mask UDLM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.noise_kernel import NoiseKernel, ReverseMixture
from sampler.params import MIXING_RATIO, NOISE_SCHEDULE, InvalidParam, choice, param
from sampler.philox import Role, uniforms
from sampler.samplers.mixture import BranchFirst, BranchParams, BranchState
from sampler.schedules import grids

START = choice(
    "first canvas: the prior of the noise, or all masks at any k",
    "noise",
    "masks",
    label="Start from",
)
MASKS = START.words.index("masks")


@dataclass(frozen=True)
class AncestralState(BranchState):
    """Columns: the parameters, [B]; words by their index (of ``SCHEDULES``, of ``START``)."""

    mixing_ratio: Float[Tensor, " B"]
    noise_schedule: Int[Tensor, " B"]
    start: Int[Tensor, " B"]


@dataclass(frozen=True)
class AncestralParams(BranchParams):
    """Parameters of the exact posterior sampler."""

    state = AncestralState
    needs_mask = False
    mixing_ratio: float = param(MIXING_RATIO)
    noise_schedule: str = param(NOISE_SCHEDULE)
    start: str = param(START)

    def check_without_mask(self) -> None:
        """Raise InvalidParam unless the noise is uniform, and the first canvas too."""
        if self.mixing_ratio != 1.0:
            reason = f"must be 1 for a model without a mask, got {self.mixing_ratio:g}"
            raise InvalidParam("mixing_ratio", reason)
        if self.start == "masks":
            raise InvalidParam("start", "masks needs a model with a mask")


@dataclass(frozen=True)
class Ancestral(BranchFirst[AncestralState]):
    """The posterior sampler of XDLM; without a mask id, of UDLM."""

    def _kernel(self, mixing_ratio: Tensor) -> NoiseKernel:
        """The kernel where each canvas, or position, has its own k."""
        return NoiseKernel(mixing_ratio, self.vocab_size, self.mask_id)

    def begin(self, batch: CanvasBatch[AncestralState]) -> CanvasBatch[AncestralState]:
        """Draw the editable positions from the prior, or fill them with masks (the official code's
        ``sample_start_k1_zero``); the others are given.
        """
        first = batch.on_host
        canvas, position = first.owner
        seed = first.seed[canvas]
        u, v = uniforms(seed, torch.zeros_like(seed), position, Role.PRIOR)
        prior = self._kernel(first.own.mixing_ratio[canvas]).prior(u, self.uniform_id(v))
        if self.mask_id is not None:
            prior = torch.where((first.own.start == MASKS)[canvas], self.mask_id, prior)
        return batch.with_tokens(torch.where(first.editable, prior, first.tokens))

    def mixture(
        self, batch: CanvasBatch[AncestralState], masked: Bool[Tensor, "2 1"]
    ) -> ReverseMixture:
        """The mixture of eq. 11."""
        alphas = grids(
            batch.own.noise_schedule, batch.step, batch.steps, batch.from_step, batch.from_time
        )
        alpha_s, alpha_t = (alpha.expand(2, -1) for alpha in alphas)
        # any id that is no mask stands for the other tokens
        z = torch.where(masked, -1 if self.mask_id is None else self.mask_id, -1)
        kernel = self._kernel(batch.own.mixing_ratio)
        return kernel.mixture(z.expand(2, batch.size), alpha_s, alpha_t)
