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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.noise_kernel import ReverseMixture
from sampler.params import InvalidParam, choice, number, param
from sampler.samplers.mixture import BranchFirst, BranchParams, BranchState, column_of
from sampler.schedules import T_MIN, times
from sampler.state import Columns

ETAS = {"cap": 0.008, "rescale": 0.015, "loop": 0.02}
"""The published eta of each schedule."""
RESCALE, LOOP = list(ETAS).index("rescale"), list(ETAS).index("loop")


@dataclass(frozen=True)
class RemdmState(BranchState):
    """Columns: the parameters, ``remdm_schedule`` by its index, all [B]."""

    remdm_schedule: Int[Tensor, " B"]
    remdm_eta: Float[Tensor, " B"]
    remdm_t_on: Float[Tensor, " B"]
    remdm_t_off: Float[Tensor, " B"]
    remdm_alpha_on: Float[Tensor, " B"]

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases; an eta that was not chosen is the published one."""
        etas = [p.own.remdm_eta for p in params]
        published = [ETAS[p.own.remdm_schedule] for p in params]
        return cls(
            column_of("noise_removal", params, columns),
            column_of("remdm_schedule", params, columns),
            columns.reals([p if e is None else e for e, p in zip(etas, published, strict=True)]),
            column_of("remdm_t_on", params, columns),
            column_of("remdm_t_off", params, columns),
            column_of("remdm_alpha_on", params, columns),
        )


@dataclass(frozen=True)
class RemdmParams(BranchParams):
    """Parameters of ReMDM. The window, ``remdm_t_on`` to ``remdm_t_off``, is that of ``loop``."""

    state = RemdmState
    remdm_schedule: str = param(
        choice("probability of masking a token again", *ETAS, label="Remask by")
    )
    remdm_eta: float | None = param(
        number(
            None,
            "eta of the schedule; the published value where not given",
            0,
            1,
            example=0.02,
            label="Eta",
        )
    )
    remdm_t_on: float = param(
        number(0.55, "loop: time at which its window opens; times fall from 1 to 0", 0, 1)
    )
    remdm_t_off: float = param(
        number(0.05, "loop: time at which its window closes, at most remdm_t_on", 0, 1)
    )
    remdm_alpha_on: float = param(
        number(0.9, "loop: signal held in its window", 0, 1, open_low=True, open_high=True)
    )

    def check_together(self) -> None:
        """Raise InvalidParam for a window that closes before it opens."""
        if self.remdm_t_off > self.remdm_t_on:
            raise InvalidParam("remdm_t_off", f"must be at most remdm_t_on, {self.remdm_t_on:g}")

    def unread(self) -> dict[str, str]:
        """The window, where the schedule is not ``loop``."""
        if self.remdm_schedule == "loop":
            return {}
        reason = f"is only supported by remdm_schedule loop; got {self.remdm_schedule}"
        return dict.fromkeys(("remdm_t_on", "remdm_t_off", "remdm_alpha_on"), reason)


@dataclass(frozen=True)
class Remasking:
    """One step: two probabilities of each canvas.

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


def remasking(batch: CanvasBatch[RemdmState]) -> Remasking:
    """The two probabilities of each canvas in the next step, [B]."""
    t, s, late = _times(batch)
    on, alpha_on, eta = batch.own.remdm_t_on, batch.own.remdm_alpha_on, batch.own.remdm_eta
    loops, early = batch.own.remdm_schedule == LOOP, t > on

    def alpha(time: Tensor) -> Tensor:
        rising = (1.0 - time) * alpha_on / (1.0 - on)
        ending = 1.0 - time * (1.0 - alpha_on) / _t_off(batch)
        loop = torch.where(late, ending, torch.where(early, rising, alpha_on))
        return torch.where(loops, loop, 1.0 - time)

    alpha_s, alpha_t = alpha(s), alpha(t)
    rescale = batch.own.remdm_schedule == RESCALE
    sigma = torch.where(rescale, eta * sigma_max(alpha_s, alpha_t), eta)
    sigma = torch.where(loops & (early | late), 0.0, sigma)
    return Remasking.of(alpha_s, alpha_t, sigma)


def _t_off(batch: CanvasBatch[RemdmState]) -> Tensor:
    """Not before the last time, so that the noise removal fills all masks."""
    return batch.own.remdm_t_off.clamp(min=T_MIN)


def _times(batch: CanvasBatch[RemdmState]) -> tuple[Tensor, Tensor, Tensor]:
    """(t, s, whether the window of a loop is over) of the step that comes next."""
    t, s = times(batch.step, batch.steps, batch.from_step, batch.from_time)
    return t, torch.where(batch.step >= batch.steps, 0.0, s), t <= _t_off(batch)


@dataclass(frozen=True)
class Remdm(BranchFirst[RemdmState]):
    """The remasking sampler for checkpoints trained with masks alone."""

    mask_id: int

    def begin(self, batch: CanvasBatch[RemdmState]) -> CanvasBatch[RemdmState]:
        """All editable positions start as masks."""
        return batch.masked(self.mask_id)

    def settled(self, batch: CanvasBatch[RemdmState]) -> Int[Tensor, " B"]:
        """A filled position stays where no step ahead masks again: after a loop's window, before
        the noise removal, and with eta = 0.
        """
        canvas = batch.host.canvas
        _, _, late = _times(batch)
        stays = (batch.own.remdm_eta == 0) | (batch.step >= batch.steps)
        stays |= (batch.own.remdm_schedule == LOOP) & late
        filled = stays[canvas] & (batch.tokens != self.mask_id)
        return batch.leading(~batch.host.editable | filled | batch.finished[canvas])

    def mixture(
        self, batch: CanvasBatch[RemdmState], masked: Bool[Tensor, "2 1"]
    ) -> ReverseMixture:
        """A mask is filled, a token masked, each with its probability."""
        step = remasking(batch)
        masked = masked.expand(2, batch.size)
        nothing = torch.zeros_like(masked, dtype=step.fill.dtype)
        return ReverseMixture(
            rate=torch.where(masked, step.fill, step.remask),
            signal=nothing,
            here=nothing + 1.0,
            to_model=masked.to(nothing.dtype),
            to_uniform=nothing,
        )
