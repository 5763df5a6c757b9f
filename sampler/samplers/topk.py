"""The hybrid sampler of Algorithm 1: at each step fill some masks and refine some tokens.

A budget says how many of each (``topk_plan``). Masks of the active block are filled in
order of the model's confidence; tokens written before are replaced where the model would now rather
have another one. Blocks are walked from left to right. With k = 0 nothing is refined, and this is
LLaDA's own decoding.

The published loop has quirks that we do not share (it rewrites prompts, it can write masks, it
counts masks of other blocks); ``compat="official"`` repeats them, for its tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.row_reader import RowStats
from sampler.logits.row_requests import RowQuery
from sampler.packing import best_of_each
from sampler.philox import Role, uniforms
from sampler.samplers.topk_plan import COMPAT, REFINE_SCOPE, REMASKING, TopKParams, TopKState
from sampler.transition import Transition

__all__ = ["TopK", "TopKParams"]

OFFICIAL = COMPAT.words.index("official")
BLOCK_SCOPE = REFINE_SCOPE.words.index("block")
RANDOM = REMASKING.words.index("random")


@dataclass(frozen=True)
class TopKProposal:
    """Candidates of the step, and how many of them each canvas takes.

    Attributes:
        rows: packed positions that may change.
        query: what is asked of them.
        masked: the row is a mask to fill; else a token to refine.
        order: uniforms, for masks that are filled in random order.
        absorb: masks to fill, per canvas.
        refine: tokens to refine at most, per canvas.
        block_ends: this is the last step of the active block.
    """

    rows: Int[Tensor, " R"]
    query: RowQuery
    masked: Bool[Tensor, " R"]
    order: Float[Tensor, " R"]
    absorb: Int[Tensor, " B"]
    refine: Int[Tensor, " B"]
    block_ends: Bool[Tensor, " B"]


@dataclass(frozen=True)
class TopK:
    """The hybrid sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m.
        ends: ids of the end token and the end of a turn, as far as there are such.
    """

    vocab_size: int
    mask_id: int
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch[TopKState]) -> CanvasBatch[TopKState]:
        """All editable positions start as masks."""
        return batch.with_tokens(torch.where(batch.editable, self.mask_id, batch.tokens))

    def settled(self, batch: CanvasBatch[TopKState]) -> Int[Tensor, " B"]:
        """A filled mask is final where nothing more is refined; under the ``block`` scope, so are
        the blocks behind; the published loop may rewrite anything until the end.
        """
        canvas, _ = batch.owner
        finished = batch.finished
        own, now = batch.own, batch.own.planned(batch.step)
        planned = own.plan_refine.cumsum(0)
        ahead = planned[own.plan_steps.cumsum(0) - 1] - planned[now]
        refines = ahead + own.plan_refine[now] + own.carry > 0
        official = batch.own.compat == OFFICIAL
        behind = batch.rank < (batch.block * batch.own.block_length)[canvas]
        in_block = (batch.own.refine_scope == BLOCK_SCOPE)[canvas] & behind
        filled = ~refines[canvas] & (batch.tokens != self.mask_id)
        open_ = (~official & ~finished)[canvas]
        final = torch.where(open_, ~batch.editable | in_block | filled, finished[canvas])
        return batch.leading(final)

    def propose(self, batch: CanvasBatch[TopKState]) -> TopKProposal:
        """Find the masks and tokens that this step may write. Reads no logits."""
        canvas, position = batch.owner
        official = batch.own.compat == OFFICIAL
        own, now, block = batch.own, batch.own.planned(batch.step), batch.block
        last = batch.step + 1 >= own.plan_steps
        following = own.plan_block[(now + 1).clamp(max=own.plan_block.numel() - 1)]
        block_ends = last | (following != block)
        # every mask of a block is filled when it ends, whatever its budgets were
        absorb = torch.where(block_ends & ~official, batch.lengths, own.plan_absorb[now])
        refine = own.plan_refine[now] + batch.own.carry

        rank = batch.rank
        start = (block * batch.own.block_length)[canvas]
        reached = rank < start + batch.own.block_length[canvas]
        active = reached & (rank >= start) & batch.editable
        masked = batch.tokens == self.mask_id
        free = official[canvas]
        scope = torch.where((batch.own.refine_scope == BLOCK_SCOPE)[canvas], active, batch.editable)
        fill = masked & torch.where(free, reached, active) & (absorb > 0)[canvas]
        edit = ~masked & reached & (free | scope) & (refine > 0)[canvas]
        rows = torch.nonzero(fill | edit)[:, 0]

        of = canvas[rows]
        seed, step = batch.seed[of], batch.step[of]
        u, order = uniforms(seed, step, position[rows], Role.TOKEN)
        last = batch.own.ends_last[of]
        query = RowQuery.about(
            batch,
            rows,
            of,
            u,
            as_model=torch.ones_like(last),
            official=official[of],
            no_eos=own.no_eos[of],
            # at a temperature the published loop forgets the end token here
            eos_last=last & ~(official & (batch.temperature > 0))[of],
            eot_last=last,
        )
        return TopKProposal(rows, query, fill[rows], order, absorb, refine, block_ends)

    def commit(
        self, batch: CanvasBatch[TopKState], proposal: TopKProposal, stats: RowStats
    ) -> tuple[CanvasBatch[TopKState], Transition]:
        """Take the most confident candidates of each canvas, all at once."""
        canvas, _ = batch.owner
        rows, masked = proposal.rows, proposal.masked
        of, z = canvas[rows], batch.tokens[rows]
        confidence, current = stats.p_sample.float(), stats.p_current.float()
        at_random = masked & (batch.own.remasking == RANDOM)[of]
        score = torch.where(at_random, proposal.order, confidence.double())
        better = ~masked & (stats.sample != z) & (confidence >= current)
        filled = best_of_each(score, of, masked, proposal.absorb)
        refined = best_of_each(score, of, better, proposal.refine)

        spent = torch.zeros_like(proposal.refine).index_add_(0, of, refined.long())
        carry = torch.where(proposal.block_ends, 0, proposal.refine - spent)
        chosen = filled | refined
        after = batch.tokens.clone()
        after[rows[chosen]] = stats.sample[chosen]
        change = Transition.between(batch.tokens, after, self.mask_id, rows, stats)
        after = replace(batch.advanced(after), own=replace(batch.own, carry=carry))
        return after, change
