"""Parallel decoding as far as the model is sure: fill every mask that passes a rule, at least one.

Masks of the active block are filled, most certain first, and never touched again. How many a step
fills is decided by one of three rules:

- confidence: all with probability >= ``confidence_threshold``;
- factor (Fast-dLLM): the largest n with (n + 1) (1 - c_n) < f, c_n the n-th highest probability;
- entropy bound (EB-Sampler): the largest n whose entropies, less the highest, sum to <= the bound.

A block that is full makes way for the next at once, so a request may need fewer steps than it asked
for. It never needs more: the steps left are shared among the blocks left, and where the rule alone
would not finish in time, the masks left are shared among a block's steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.row_reader import RowStats
from sampler.logits.row_requests import RowQuery
from sampler.philox import Role, uniforms
from sampler.select import ranked
from sampler.transition import Transition


@dataclass(frozen=True)
class ThresholdProposal:
    """The masks of the active blocks, and how many each canvas fills at least.

    Attributes:
        rows: packed positions that may be filled.
        query: what is asked of them.
        least: masks to fill at least, per canvas.
    """

    rows: Int[Tensor, " R"]
    query: RowQuery
    least: Int[Tensor, " B"]


@dataclass(frozen=True)
class Threshold:
    """The threshold sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m.
        ends: ids of the end token and the end of a turn, as far as there are such.
    """

    vocab_size: int
    mask_id: int
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """All editable positions start as masks."""
        return batch.with_tokens(torch.where(batch.editable, self.mask_id, batch.tokens))

    def settled(self, batch: CanvasBatch) -> Int[Tensor, " B"]:
        """What is filled stays."""
        return batch.leading(~self._masked(batch))

    def _masked(self, batch: CanvasBatch) -> Tensor:
        return batch.editable & (batch.tokens == self.mask_id)

    def propose(self, batch: CanvasBatch) -> ThresholdProposal:
        """Find the masks of the first block that has any. Reads no logits."""
        canvas, position = batch.owner
        masked, rank = self._masked(batch), batch.rank
        block_of = rank // batch.block_length[canvas]
        beyond = batch.lengths  # more blocks than there can be
        block = beyond.scatter_reduce(
            0, canvas, torch.where(masked, block_of, beyond[canvas]), "amin"
        )
        free = torch.zeros_like(block).index_add_(0, canvas, batch.editable.long())
        blocks_left = (-(-free // batch.block_length) - block).clamp(min=1)
        steps_left = (batch.steps - batch.step).clamp(min=1)
        cramped = steps_left < blocks_left  # after ``shortened``: all masks left are one block
        rows = torch.nonzero(masked & ((block_of == block[canvas]) | cramped[canvas]))[:, 0]
        of = canvas[rows]
        steps_here = torch.where(cramped, steps_left, steps_left // blocks_left)
        masks = torch.bincount(of, minlength=batch.size)
        u, _ = uniforms(batch.seed[of], batch.step[of], position[rows], Role.TOKEN)
        by_entropy = batch.entropy_bound[of].isfinite()
        query = RowQuery.about(
            batch, rows, of, u, as_model=torch.ones_like(by_entropy), entropy=by_entropy
        )
        return ThresholdProposal(rows, query, -(-masks // steps_here))

    def commit(
        self, batch: CanvasBatch, proposal: ThresholdProposal, stats: RowStats
    ) -> tuple[CanvasBatch, Transition]:
        """Fill the most certain masks of each canvas, as many as its rule lets through."""
        canvas, _ = batch.owner
        rows = proposal.rows
        of = canvas[rows]
        confidence, entropy = stats.p_sample.float().double(), stats.entropy
        by_entropy = batch.entropy_bound[of].isfinite()
        score = torch.where(by_entropy, -entropy, confidence)
        order, place = ranked(score, of, torch.ones_like(by_entropy), batch.size)
        sorted_of, surest = of[order], confidence[order]

        running = segment_sums(entropy[order], place)
        passes = torch.where(
            by_entropy[order],
            running - entropy[order] <= batch.entropy_bound[sorted_of],
            torch.where(
                batch.confidence_factor[sorted_of].isfinite(),
                (place + 2) * (1.0 - surest) < batch.confidence_factor[sorted_of],
                surest >= batch.confidence_threshold[sorted_of],
            ),
        )
        count = proposal.least.scatter_reduce(
            0, sorted_of, torch.where(passes, place + 1, 0), "amax"
        )
        chosen = order[place < count[sorted_of]]
        after = batch.tokens.clone()
        after[rows[chosen]] = stats.sample[chosen]
        change = Transition.between(batch.tokens, after, self.mask_id, rows, stats)
        return batch.advanced(after), change


def segment_sums(values: Float[Tensor, " R"], place: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Running sums that start anew wherever ``place`` is 0."""
    total = values.cumsum(0)
    before = total - values
    starts = torch.nonzero(place == 0)[:, 0]
    segment = (place == 0).long().cumsum(0) - 1
    return total - before[starts][segment]
