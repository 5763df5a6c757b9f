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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.row_reader import RowStats
from sampler.logits.row_requests import RowQuery
from sampler.packing import ranked
from sampler.params import BlockParams, InvalidParam, number, param
from sampler.philox import Role, uniforms
from sampler.state import Columns, SamplerState
from sampler.transition import Transition


@dataclass(frozen=True)
class ThresholdState(SamplerState):
    """Columns, [B].

    Attributes:
        block_length: positions of a block; the whole canvas where none was chosen.
        no_eos: ``logits_eos_inf``.
        confidence_threshold, entropy_bound, confidence_factor: infinite where none was chosen.
    """

    block_length: Int[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]
    confidence_threshold: Float[Tensor, " B"]
    entropy_bound: Float[Tensor, " B"]
    confidence_factor: Float[Tensor, " B"]

    @classmethod
    def of(cls, params: Sequence[Any], free: Sequence[int], columns: Columns) -> Any:
        """The columns of new canvases."""

        def or_infinite(values: list[float | None]) -> Tensor:
            return columns.reals([math.inf if value is None else value for value in values])

        for p, positions in zip(params, free, strict=True):
            p.own.check_canvas(p.steps, positions)
        return cls(
            columns.integers(
                [max(1, p.own.block_positions(n)) for p, n in zip(params, free, strict=True)]
            ),
            columns.flags([p.own.logits_eos_inf for p in params]),
            columns.reals([p.own.confidence_threshold for p in params]),
            or_infinite([p.own.entropy_bound for p in params]),
            or_infinite([p.own.confidence_factor for p in params]),
        )


@dataclass(frozen=True)
class ThresholdParams(BlockParams):
    """Parameters of threshold decoding: one of three rules, and the blocks."""

    state = ThresholdState
    confidence_threshold: float = param(
        number(0.9, "fill masks whose token is at least this likely", 0, 1, label="Threshold")
    )
    entropy_bound: float | None = param(
        number(None, "fill masks while their entropies sum to this, in nats", 0, 1e6, example=0.5)
    )
    confidence_factor: float | None = param(
        number(None, "f of Fast-dLLM's rule", 0, 1e6, example=1.0)
    )

    def check_together(self) -> None:
        """Raise InvalidParam where two rules were chosen."""
        if self.entropy_bound is not None and self.confidence_factor is not None:
            raise InvalidParam("entropy_bound", "and confidence_factor exclude each other")


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

    def begin(self, batch: CanvasBatch[ThresholdState]) -> CanvasBatch[ThresholdState]:
        """All editable positions start as masks."""
        return batch.with_tokens(torch.where(batch.editable, self.mask_id, batch.tokens))

    def settled(self, batch: CanvasBatch[ThresholdState]) -> Int[Tensor, " B"]:
        """What is filled stays."""
        return batch.leading(~self._masked(batch))

    def _masked(self, batch: CanvasBatch[ThresholdState]) -> Tensor:
        return batch.editable & (batch.tokens == self.mask_id)

    def propose(self, batch: CanvasBatch[ThresholdState]) -> ThresholdProposal:
        """Find the masks of the first block that has any. Reads no logits."""
        canvas, position = batch.owner
        masked, rank = self._masked(batch), batch.rank
        block_of = rank // batch.own.block_length[canvas]
        beyond = batch.lengths  # more blocks than there can be
        block = beyond.scatter_reduce(
            0, canvas, torch.where(masked, block_of, beyond[canvas]), "amin"
        )
        free = torch.zeros_like(block).index_add_(0, canvas, batch.editable.long())
        blocks_left = (-(-free // batch.own.block_length) - block).clamp(min=1)
        steps_left = (batch.steps - batch.step).clamp(min=1)
        cramped = steps_left < blocks_left  # after ``shortened``: all masks left are one block
        rows = torch.nonzero(masked & ((block_of == block[canvas]) | cramped[canvas]))[:, 0]
        of = canvas[rows]
        steps_here = torch.where(cramped, steps_left, steps_left // blocks_left)
        masks = torch.bincount(of, minlength=batch.size)
        u, _ = uniforms(batch.seed[of], batch.step[of], position[rows], Role.TOKEN)
        by_entropy = batch.own.entropy_bound[of].isfinite()
        query = RowQuery.about(
            batch,
            rows,
            of,
            u,
            as_model=torch.ones_like(by_entropy),
            entropy=by_entropy,
            no_eos=batch.own.no_eos[of],
        )
        return ThresholdProposal(rows, query, -(-masks // steps_here))

    def commit(
        self, batch: CanvasBatch[ThresholdState], proposal: ThresholdProposal, stats: RowStats
    ) -> tuple[CanvasBatch[ThresholdState], Transition]:
        """Fill the most certain masks of each canvas, as many as its rule lets through."""
        canvas, _ = batch.owner
        rows = proposal.rows
        of = canvas[rows]
        confidence, entropy = stats.p_sample.float().double(), stats.entropy
        by_entropy = batch.own.entropy_bound[of].isfinite()
        score = torch.where(by_entropy, -entropy, confidence)
        order, place = ranked(score, of, torch.ones_like(by_entropy), batch.size)
        sorted_of, surest = of[order], confidence[order]

        running = segment_sums(entropy[order], place)
        passes = torch.where(
            by_entropy[order],
            running - entropy[order] <= batch.own.entropy_bound[sorted_of],
            torch.where(
                batch.own.confidence_factor[sorted_of].isfinite(),
                (place + 2) * (1.0 - surest) < batch.own.confidence_factor[sorted_of],
                surest >= batch.own.confidence_threshold[sorted_of],
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
