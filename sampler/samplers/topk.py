"""The hybrid sampler of Algorithm 1: at each step fill some masks and refine some tokens.

A budget says how many of each (``topk_plan``). Masks of the active block are filled in
order of the model's confidence; tokens written before are replaced where the model would now rather
have another one. Blocks are walked from left to right. With k = 0 nothing is refined, and this is
LLaDA's own decoding. ``spacing`` is not of the paper: it keeps the masks of a step apart.

The published loop has quirks that we do not share (it rewrites prompts, it can write masks, it
counts masks of other blocks); ``compat="official"`` repeats them, for its tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import RowQuery
from sampler.logits.row_stats import RowStats
from sampler.now import Now
from sampler.packing import best_of_each, best_within
from sampler.philox import Role, uniforms
from sampler.plan import Plan, Rows, Written, row_settings
from sampler.samplers.topk_plan import (
    COMPAT,
    FARTHEST,
    REFINE_SCOPE,
    REMASKING,
    TopKParams,
    TopKState,
)

__all__ = ["TopK", "TopKParams"]

OFFICIAL = COMPAT.words.index("official")
BLOCK_SCOPE = REFINE_SCOPE.words.index("block")
RANDOM = REMASKING.words.index("random")


NOWHERE = -2
"""A bound below every rank."""


@dataclass(frozen=True)
class TopKProposal:
    """Candidates of the step.

    Attributes:
        marks: positions that may change.
        masked: the position is a mask to fill; else a token to refine.
        refine: tokens to refine at most, per canvas.
    """

    marks: Bool[Tensor, " T"]
    masked: Bool[Tensor, " T"]
    refine: Int[Tensor, " B"]


@dataclass(frozen=True)
class TopK:
    """The hybrid sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m.
        ends: ids of the end token and the end of a turn, where present.
    """

    vocab_size: int
    mask_id: int
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch[TopKState]) -> CanvasBatch[TopKState]:
        """All editable positions start as masks."""
        return batch.masked(self.mask_id)

    def settled(self, batch: CanvasBatch[TopKState]) -> Int[Tensor, " B"]:
        """A filled mask is final where nothing more is refined; under the ``block`` scope, so are
        the blocks before the active one; the published loop may rewrite anything until the end.
        """
        own, now, host = batch.own, batch.own.planned(batch.step), batch.host
        finished = batch.finished
        planned = own.plan_refine.cumsum(0)
        ahead = planned[own.plan_steps.cumsum(0) - 1] - planned[now]
        refines = ahead + own.plan_refine[now] + own.carry > 0
        official = own.compat == OFFICIAL
        # ranks below this are final whatever stands there
        passed = torch.where(own.refine_scope == BLOCK_SCOPE, batch.block * own.block_length, 0)
        passed = torch.where(official, NOWHERE, passed)
        passed = torch.where(finished, batch.lengths, passed)
        fillable = ~refines & ~official
        canvas = host.canvas
        final = (host.rank < passed[canvas]) | (~host.editable & ~official[canvas])
        final |= fillable[canvas] & (batch.tokens != self.mask_id)
        return batch.leading(final)

    def plan(self, batch: CanvasBatch[TopKState]) -> Plan:
        """Budgets and bounds of the next step."""
        own, now = batch.own, batch.own.planned(batch.step)
        official = own.compat == OFFICIAL
        block = own.plan_block[now]
        following = own.plan_block[(now + 1).clamp(max=own.plan_block.numel() - 1)]
        ends = (batch.step + 1 >= own.plan_steps) | (following != block)
        # every mask of a block is filled when it ends, whatever its budgets were
        absorb = torch.where(ends & ~official, batch.lengths, own.plan_absorb[now])
        start = block * own.block_length
        reached = start + own.block_length
        in_block = own.refine_scope == BLOCK_SCOPE
        at_positions = {
            "fill_from": torch.where(official, -1, start),
            "fill_to": torch.where(absorb > 0, reached, NOWHERE),
            "edit_from": torch.where(official, -1, torch.where(in_block, start, 0)),
            "edit_to": reached,
        }
        if official.any():
            at_positions["given_too"] = official
        # at a temperature the published loop forgets the end token here
        eos_last = own.ends_last & ~(official & (batch.temperature > 0))
        at_rows, asks = row_settings(
            batch,
            as_model=True,
            official=official,
            crossing=own.crossing,
            no_eos=own.no_eos,
            eos_last=eos_last,
            eot_last=own.ends_last,
        )
        at_rows |= {"seed": batch.seed, "step": batch.step}
        if (at_random := own.remasking == RANDOM).any():
            at_rows["at_random"] = at_random
        if own.spacing.any():
            at_rows["spacing"] = own.spacing
        at_canvases = {
            "absorb": absorb,
            "refine": own.plan_refine[now],
            "carry": own.carry,
            "ends": ends,
        }
        return Plan.of(batch, at_positions, at_rows, at_canvases, asks)

    def propose(self, layout: Layout, now: Now, tokens: Int[Tensor, " T"]) -> TopKProposal:
        """Find the masks and tokens that this step may write. Reads no logits."""
        its = now.at_positions(layout.canvas)
        refine = now.of_canvases("refine") + now.of_canvases("carry")
        masked = tokens == self.mask_id
        edit_to = torch.where((refine > 0)[layout.canvas], its["edit_to"], NOWHERE)
        first = torch.where(masked, its["fill_from"], its["edit_from"])
        end = torch.where(masked, its["fill_to"], edit_to)
        may = layout.editable
        if "given_too" in its:
            may = may | (its["given_too"] != 0)
        marks = (layout.rank >= first) & (layout.rank < end) & may
        return TopKProposal(marks, masked, refine)

    def query(self, layout: Layout, tokens: Tensor, proposal: TopKProposal, rows: Rows) -> RowQuery:
        """Ask for the model's own probabilities; draw where there is a temperature."""
        its = rows.settings
        u, order = uniforms(its["seed"], its["step"], rows.position, Role.TOKEN)
        its["order"] = order
        return RowQuery.of(
            its, tokens[rows.at], u, as_model=torch.ones_like(rows.at, dtype=torch.bool)
        )

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Int[Tensor, " T"],
        proposal: TopKProposal,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """Take the most confident candidates of each canvas, all at once."""
        size = layout.size
        masked, z = proposal.masked[rows.at], tokens[rows.at]
        confidence, current = stats.p_sample.float(), stats.p_current.float()
        score = confidence.double()
        if "at_random" in rows.settings:
            at_random = masked & (rows.settings["at_random"] != 0)
            score = torch.where(at_random, rows.settings["order"], score)
        better = ~masked & (stats.sample != z) & (confidence >= current)
        # masks to fill are groups 0 to B - 1, tokens to refine the next B, the rest none
        group = torch.where(masked, rows.canvas, torch.where(better, rows.canvas + size, 2 * size))
        if rows.valid is not None:
            group = torch.where(rows.valid, group, 2 * size)
        if "spacing" in rows.settings:
            distance = torch.where(masked, rows.settings["spacing"], 0)
            apart = best_within(score, group, rows.packed, distance, FARTHEST)
            score = torch.where(apart, score, -1.0 / score)  # below all others, in their order
        budget = torch.cat((now.of_canvases("absorb"), proposal.refine))
        chosen, taken = best_of_each(score, group, budget)
        carry = torch.where(now.of_canvases("ends") != 0, 0, proposal.refine - taken[size:])
        target = torch.where(chosen, rows.packed, layout.positions)
        after = F.pad(tokens, (0, 1)).scatter_(0, target, stats.sample)[:-1]
        return Written(after, {"carry": carry})
