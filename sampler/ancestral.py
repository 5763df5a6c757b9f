"""Exact ancestral sampling, branch first: eq. 11 without ever building a posterior.

The posterior is a mixture (see ``docs/samplers.md``): keep z with probability 1 - L, otherwise draw
x0 from the model and noise it again with the forward marginal at time s. L needs of the model only
p_z, and is bounded by U = beta_ts / beta_t whatever the model says. So the coin is thrown *before*
the network: a position with u1 >= U stays and never asks for logits, and a canvas with no asking
position is not run at all. With k = 0 this is MDLM, with k = 1 and no mask UDLM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.canvas import CanvasBatch
from sampler.kernel import NoiseKernel
from sampler.params import NOISE_REMOVALS
from sampler.readout import RowQuery, RowStats
from sampler.rng import Role, integers, uniforms
from sampler.schedule import grids
from sampler.transition import Transition

GREEDY = NOISE_REMOVALS.index("greedy")


@dataclass(frozen=True)
class AncestralProposal:
    """Which rows the step needs, and the coins it has already thrown.

    Attributes:
        rows: packed positions whose logits are needed.
        query: what is asked of them.
        maybe: positions that leave, if their coin stays below L.
        u_leave: the coin; L is compared with this same number.
        to_model: a leaving position takes the model's guess,
        elsewhere: or else goes to this id (a uniform one or the mask).
        alpha_s, alpha_t: per position.
    """

    rows: Int[Tensor, " R"]
    query: RowQuery
    maybe: Bool[Tensor, " T"]
    u_leave: Float[Tensor, " T"]
    to_model: Bool[Tensor, " T"]
    elsewhere: Int[Tensor, " T"]
    alpha_s: Float[Tensor, " T"]
    alpha_t: Float[Tensor, " T"]


@dataclass(frozen=True)
class Ancestral:
    """The posterior sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m, or None for UDLM.
        ends: ids of the end token and the end of a turn, as far as there are such.
    """

    vocab_size: int
    mask_id: int | None
    ends: tuple[int, ...] = ()

    def _kernel(self, batch: CanvasBatch, canvas: Tensor) -> NoiseKernel:
        """The kernel with each position's own k."""
        return NoiseKernel(batch.mixing_ratio[canvas], self.vocab_size, self.mask_id)

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """Draw the editable positions from the prior; the others are clamped."""
        canvas, position = batch.owner()
        seed = batch.seed[canvas]
        u, v = uniforms(seed, torch.zeros_like(seed), position, Role.PRIOR)
        prior = self._kernel(batch, canvas).prior(u, integers(v, self.vocab_size))
        return batch.with_tokens(torch.where(batch.editable, prior, batch.tokens))

    def settled(self, batch: CanvasBatch) -> Int[Tensor, " B"]:
        """Any token may change until the end."""
        canvas, _ = batch.owner()
        return batch.leading(~batch.editable | batch.finished[canvas])

    def propose(self, batch: CanvasBatch) -> AncestralProposal:
        """Throw the coins of the next step and say which rows it needs. Reads no logits."""
        canvas, position = batch.owner()
        z, step = batch.tokens, batch.step[canvas]
        kernel = self._kernel(batch, canvas)
        alphas = grids(
            batch.noise_schedule, batch.step, batch.steps, batch.from_step, batch.from_time
        )
        alpha_s, alpha_t = (a[canvas] for a in alphas)
        seed = batch.seed[canvas]
        u1, u2 = uniforms(seed, step, position, Role.BRANCH)
        u3, u4 = uniforms(seed, step, position, Role.TOKEN)

        can_leave = batch.editable & (kernel.rate(z) > 0)  # k = 0: tokens stay
        maybe = can_leave & (u1 < kernel.leave_bound(alpha_s, alpha_t))
        # the forward marginal at s, applied to the guess: keep it, a uniform id, or the mask
        to_model = u2 < alpha_s
        elsewhere = integers(u4, self.vocab_size)
        masked = torch.zeros_like(maybe)
        if self.mask_id is not None:
            masked = z == self.mask_id
            to_uniform = u2 < alpha_s + (1.0 - alpha_s) * kernel.mixing_ratio
            elsewhere = torch.where(to_uniform, elsewhere, self.mask_id)
        # a mask has p_z = 0, so L = U needs no logits; a token's p_z does
        asked = to_model | ~masked | batch.tell[canvas]
        rows = torch.nonzero(maybe & asked)[:, 0]
        of = canvas[rows]
        last_greedy = (batch.step >= batch.steps) & (batch.noise_removal == GREEDY)
        temperature = torch.where(last_greedy, 0.0, batch.temperature)[of]
        written = torch.where(to_model, -1, elsewhere)[rows]
        query = RowQuery.about(batch, rows, of, u3[rows], temperature=temperature, written=written)
        return AncestralProposal(rows, query, maybe, u1, to_model, elsewhere, alpha_s, alpha_t)

    def commit(
        self, batch: CanvasBatch, proposal: AncestralProposal, stats: RowStats
    ) -> tuple[CanvasBatch, Transition]:
        """Settle the step with what the model said of ``proposal.rows``."""
        canvas, _ = batch.owner()
        z, rows = batch.tokens, proposal.rows
        p_z = torch.zeros_like(proposal.u_leave)
        p_z[rows] = stats.p_current
        guess = torch.zeros_like(z)
        guess[rows] = stats.sample

        leave = self._kernel(batch, canvas).leave_probability(
            p_z, z, proposal.alpha_s, proposal.alpha_t
        )
        overwrite = ((batch.step >= batch.steps) & (batch.noise_removal == GREEDY))[canvas]
        leaving = proposal.maybe & ((proposal.u_leave < leave) | overwrite)
        new = torch.where(proposal.to_model, guess, proposal.elsewhere)
        after = torch.where(leaving, new, z)
        change = Transition.between(z, after, self.mask_id, rows, stats)
        return batch.advanced(after), change
