"""ReMDM (Wang et al. 2025): a masks-only model whose tokens may become masks again.

In a step from time t to s < t a token is masked again with probability sigma, and a mask takes the
model's guess with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), so that the share of
masks is what it would be without. sigma is at most sigma_max = min(1, (1 - alpha_s) / alpha_t).

- cap: sigma = min(eta, sigma_max), alpha = 1 - t;
- rescale: sigma = eta sigma_max, alpha = 1 - t;
- loop: before t_on and after t_off sigma is 0 (plain MDLM) on a schedule that rises to alpha_on at
  t_on and goes on from there at t_off; between them alpha stays at alpha_on and sigma at eta, so
  text is masked and filled again, over and over.

No move depends on the model: only masks that are filled ask for logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.moves import Moves
from sampler.params import REMDM_SCHEDULES
from sampler.samplers.mixture import BranchFirst
from sampler.schedules import T_MIN, times

RESCALE, LOOP = REMDM_SCHEDULES.index("rescale"), REMDM_SCHEDULES.index("loop")


@dataclass(frozen=True)
class Remasking:
    """What one step does: two probabilities of each canvas.

    Attributes:
        fill: a mask takes the model's guess.
        remask: a token becomes a mask (sigma).
    """

    fill: Float[Tensor, "*s"]
    remask: Float[Tensor, "*s"]

    @classmethod
    def of(cls, alpha_s: Tensor, alpha_t: Tensor, sigma: Tensor) -> Remasking:
        """From signal and sigma, which is cut to what is possible."""
        sigma = torch.minimum(sigma, sigma_max(alpha_s, alpha_t))
        fill = (alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)
        return cls(fill.clamp(0.0, 1.0), sigma)

    def posterior(
        self, p: Float[Tensor, "*s N"], z: Int[Tensor, "*s"], mask_id: int
    ) -> Float[Tensor, "*s N"]:
        """The distribution of z_s over the vocabulary, which samplers never build.

        Args:
            p: model distribution [..., N], without mass on the mask.
            z: current ids [...].
            mask_id: m.
        """
        ids = torch.arange(p.shape[-1], device=p.device)
        here, mask = (ids == z[..., None]).to(p.dtype), (ids == mask_id).to(p.dtype)
        fill, remask = self.fill[..., None], self.remask[..., None]
        filled = fill * p + (1.0 - fill) * mask
        kept = (1.0 - remask) * here + remask * mask
        return torch.where(z[..., None] == mask_id, filled, kept)


def sigma_max(alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
    """The most that sigma can be. Signal may lie beyond 1 where a loop's window begins."""
    return ((1.0 - alpha_s) / alpha_t).clamp(0.0, 1.0)


def remasking(batch: CanvasBatch) -> Remasking:
    """What the next step of each canvas does, [B]."""
    t, s, late = _times(batch)
    on, alpha_on, eta = batch.remdm_t_on, batch.remdm_alpha_on, batch.remdm_eta
    loops, early = batch.remdm_schedule == LOOP, t > on

    def alpha(time: Tensor) -> Tensor:
        rising = (1.0 - time) * alpha_on / (1.0 - on)
        ending = 1.0 - time * (1.0 - alpha_on) / _t_off(batch)
        loop = torch.where(late, ending, torch.where(early, rising, alpha_on))
        return torch.where(loops, loop, 1.0 - time)

    alpha_s, alpha_t = alpha(s), alpha(t)
    rescale = batch.remdm_schedule == RESCALE
    sigma = torch.where(rescale, eta * sigma_max(alpha_s, alpha_t), eta)
    sigma = torch.where(loops & (early | late), 0.0, sigma)
    return Remasking.of(alpha_s, alpha_t, sigma)


def _t_off(batch: CanvasBatch) -> Tensor:
    """Not before the last time, so that the noise removal fills all masks."""
    return batch.remdm_t_off.clamp(min=T_MIN)


def _times(batch: CanvasBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(t, s, whether the window of a loop is over) of the step that comes next."""
    t, s = times(batch.step, batch.steps, batch.from_step, batch.from_time)
    return t, torch.where(batch.step >= batch.steps, 0.0, s), t <= _t_off(batch)


@dataclass(frozen=True)
class Remdm(BranchFirst):
    """The remasking sampler for checkpoints trained with masks alone."""

    mask_id: int

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """All editable positions start as masks."""
        return batch.with_tokens(torch.where(batch.editable, self.mask_id, batch.tokens))

    def settled(self, batch: CanvasBatch) -> Int[Tensor, " B"]:
        """What is filled stays where no step ahead masks again: behind a loop's window, before the
        noise removal, and with eta = 0.
        """
        canvas, _ = batch.owner
        _, _, late = _times(batch)
        stays = (batch.remdm_eta == 0) | (batch.step >= batch.steps)
        stays |= (batch.remdm_schedule == LOOP) & late
        filled = stays[canvas] & (batch.tokens != self.mask_id)
        return batch.leading(~batch.editable | filled | batch.finished[canvas])

    def moves(self, batch: CanvasBatch) -> Moves:
        """A mask is filled, a token masked, each with its probability."""
        canvas, _ = batch.owner
        step = remasking(batch)
        masked = batch.tokens == self.mask_id
        nothing = torch.zeros_like(step.fill)[canvas]
        return Moves(
            rate=torch.where(masked, step.fill[canvas], step.remask[canvas]),
            signal=nothing,
            here=nothing + 1.0,
            to_model=masked.to(nothing.dtype),
            to_uniform=nothing,
        )
