"""Parallel decoding as far as the model is sure: fill every mask that passes a rule, at least one.

Masks of the active block are filled, most certain first, and never touched again. How many a step
fills is decided by one of three rules:

- confidence: all with probability >= ``confidence_threshold``;
- factor (Fast-dLLM): the largest n with (n + 1) (1 - c_n) < f, c_n the n-th highest probability;
- entropy bound (EB-Sampler): the largest n whose entropies, less the highest, sum to <= the bound;
  SDAR's ``entropy_bounded``: the largest n whose entropies sum to < the bound.

SDAR's other strategies fill a fixed number a step, the most certain or the first from the left.

A block that is full makes way for the next at once, so a request may need fewer steps than it asked
for. It never needs more: the steps left are shared among the blocks left, and where the rule alone
would not finish in time, the masks left are shared among a block's steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import CERTAINTY, RowQuery
from sampler.logits.row_stats import RowStats
from sampler.now import Now
from sampler.packing import places, running_sums
from sampler.params import (
    ENTROPY_BOUND,
    FIRST_ALONE,
    MAX_INTEGER,
    MAX_STEPS,
    BlockParams,
    InvalidParam,
    choice,
    integer,
    number,
    param,
)
from sampler.philox import Role, uniforms
from sampler.plan import Plan, Rows, Written, row_settings
from sampler.samplers import editing
from sampler.samplers.blocks import alone_every, blocks_of, first_alone
from sampler.samplers.editing import Edits
from sampler.state import Columns, SamplerState

STRATEGY = choice(
    "SDAR's order of masks: all that pass a rule; a fixed number a step, by confidence or from the "
    "left; or by entropy",
    "low_confidence_dynamic",
    "low_confidence_static",
    "sequential",
    "entropy_bounded",
    label="Strategy",
)
CONFIDENCE_FROM = choice(
    "the probability that counts: as the model gave it, or as tokens are drawn, after temperature "
    "and top-p",
    "model",
    "draw",
    label="Confidence from",
)
STATIC, SEQUENTIAL, BOUNDED = (
    STRATEGY.words.index(word)
    for word in ("low_confidence_static", "sequential", "entropy_bounded")
)


@dataclass(frozen=True)
class ThresholdState(SamplerState):
    """Columns, [B].

    Attributes:
        aligned: ``block_aligned``.
        block_length: positions that are filled in turn: those of ``sub_block_length``, or of
            ``block_length``, or the whole canvas.
        alone_every: see ``sampler.samplers.blocks``.
        strategy: of ``remasking_strategy``, index.
        at_least: of ``num_to_transfer``.
        on_average: of ``masks_per_step``; 0 where it is not given.
        as_drawn: of ``confidence_from``.
        crossing: of ``top_p_rule``.
        no_eos: ``logits_eos_inf``.
        confidence_threshold, entropy_bound, confidence_factor, editing_threshold: infinite where
            none was chosen.
        post_steps: of the parameters.
        editing_block, post: of edited canvases, see ``sampler.samplers.editing``.
    """

    aligned: Bool[Tensor, " B"]
    block_length: Int[Tensor, " B"]
    alone_every: Int[Tensor, " B"]
    strategy: Int[Tensor, " B"]
    at_least: Int[Tensor, " B"]
    on_average: Int[Tensor, " B"]
    as_drawn: Bool[Tensor, " B"]
    crossing: Bool[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]
    confidence_threshold: Float[Tensor, " B"]
    entropy_bound: Float[Tensor, " B"]
    confidence_factor: Float[Tensor, " B"]
    editing_threshold: Float[Tensor, " B"]
    post_steps: Int[Tensor, " B"]
    editing_block: Int[Tensor, " B"]
    post: Int[Tensor, " B"]

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases."""

        def or_infinite(values: list[float | None]) -> Tensor:
            return columns.reals([math.inf if value is None else value for value in values])

        for p, positions, start in zip(params, free, first, strict=True):
            p.own.check_canvas(p.steps, positions + start)
        return cls(
            columns.flags([p.own.block_aligned for p in params]),
            columns.integers(
                [max(1, p.own.filled_in_turn(n)) for p, n in zip(params, free, strict=True)]
            ),
            columns.integers([alone_every(p) for p in params]),
            columns.integers([STRATEGY.words.index(p.own.remasking_strategy) for p in params]),
            columns.integers([p.own.num_to_transfer for p in params]),
            columns.integers([p.own.masks_per_step or 0 for p in params]),
            columns.flags([p.own.confidence_from == "draw" for p in params]),
            columns.flags([p.own.keeps_crossing for p in params]),
            columns.flags([p.own.logits_eos_inf for p in params]),
            columns.reals([p.own.confidence_threshold for p in params]),
            or_infinite([p.own.entropy_bound for p in params]),
            or_infinite([p.own.confidence_factor for p in params]),
            or_infinite([p.own.editing_threshold for p in params]),
            columns.integers([p.own.post_steps for p in params]),
            columns.integers([0] * len(params)),
            columns.integers([0] * len(params)),
        )

    @property
    def edits(self) -> Bool[Tensor, " B"]:
        """Which canvases are edited."""
        return self.editing_threshold.isfinite()

    def active_block(
        self, batch: CanvasBatch[Any], mask_id: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SamplerState``: the block that is edited, or that of the first mask."""
        host, length = batch.host, self.block_length.numpy()
        masked = (host.editable & (batch.tokens == mask_id)).numpy()
        begins = (host.ends - host.lengths).numpy()
        rank = np.where(masked, host.rank.numpy(), np.iinfo(np.int64).max)
        block = np.minimum.reduceat(rank, begins) // length
        first = np.where(self.edits.numpy(), self.editing_block.numpy(), block) * length
        return first, first + np.minimum(length, batch.lengths.numpy())


@dataclass(frozen=True)
class ThresholdParams(BlockParams):
    """Parameters of threshold decoding: one of three rules, and the blocks."""

    state = ThresholdState
    reads_open_masks = True
    confidence_threshold: float = param(
        number(0.9, "fill masks whose token is at least this likely", 0, 1, label="Threshold")
    )
    entropy_bound: float | None = param(ENTROPY_BOUND)
    confidence_factor: float | None = param(
        number(None, "f of Fast-dLLM's rule", 0, 1e6, example=1.0)
    )
    remasking_strategy: str = param(STRATEGY)
    confidence_from: str = param(CONFIDENCE_FROM)
    num_to_transfer: int = param(
        integer(1, "masks that a step fills at least", 1, MAX_INTEGER, label="At least")
    )
    masks_per_step: int | None = param(
        integer(
            None,
            "masks that a step fills at most, and those that steps before it left over",
            1,
            MAX_INTEGER,
            example=4,
        )
    )
    sub_block_length: int | None = param(
        integer(
            None,
            "positions of a part of a block; the parts are filled from left to right",
            1,
            MAX_INTEGER,
            example=8,
        )
    )
    first_alone: bool = param(FIRST_ALONE)
    editing_threshold: float | None = param(
        number(
            None,
            "replace tokens of the active block by others above this probability",
            0,
            1,
            example=0.5,
        )
    )
    post_steps: int = param(
        integer(16, "steps in which a full block is edited at most", 0, MAX_STEPS)
    )

    def check_together(self) -> None:
        """Raise InvalidParam where two rules were chosen."""
        if self.entropy_bound is not None and self.confidence_factor is not None:
            raise InvalidParam("entropy_bound", "and confidence_factor exclude each other")
        bounded, strategy = self.entropy_bound is not None, self.remasking_strategy
        if strategy == "entropy_bounded" and not bounded:
            raise InvalidParam("remasking_strategy", "entropy_bounded needs entropy_bound")
        ruled = bounded or self.confidence_factor is not None
        if ruled and strategy in ("low_confidence_static", "sequential"):
            rule = "entropy_bound" if bounded else "confidence_factor"
            raise InvalidParam("remasking_strategy", f"{strategy} excludes {rule}")
        if (part := self.sub_block_length) is not None:
            if self.block_length is None:
                raise InvalidParam("sub_block_length", "needs block_length")
            if self.block_length % part:
                reason = f"must divide block_length, {self.block_length}; got {part}"
                raise InvalidParam("sub_block_length", reason)
            if self.editing_threshold is not None:
                raise InvalidParam("sub_block_length", "and editing_threshold exclude each other")

    def filled_in_turn(self, free: int) -> int:
        """See ``BlockParams``: a part of a block, where it has parts."""
        return self.sub_block_length or self.block_positions(free)

    def unread(self) -> dict[str, str]:
        """``post_steps`` without editing."""
        edits = self.editing_threshold is not None
        return {} if edits else {"post_steps": "needs editing_threshold"}

    def most_steps(self, free: int) -> int:
        """Each step fills a mask, or edits a full block. Shared among the blocks, these many steps
        never make one fill more than its rule lets through.
        """
        length = max(1, self.block_positions(free))
        edits = 0 if self.editing_threshold is None else self.post_steps
        return max(1, -(-free // length)) * (length + edits)


@dataclass(frozen=True)
class ThresholdProposal:
    """The masks of the active blocks, and how many each canvas fills at least.

    Attributes:
        marks: positions that may be filled.
        least: masks to fill at least, per canvas.
        most: likewise at most, if they are less; None where no canvas has such a bound.
    """

    marks: Bool[Tensor, " T"]
    least: Int[Tensor, " B"]
    most: Int[Tensor, " B"] | None


@dataclass(frozen=True)
class Threshold:
    """The threshold sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m.
        ends: ids of the end token and the end of a turn, where present.
    """

    vocab_size: int
    mask_id: int
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch[ThresholdState]) -> CanvasBatch[ThresholdState]:
        """All editable positions start as masks."""
        return batch.masked(self.mask_id)

    def settled(self, batch: CanvasBatch[ThresholdState]) -> Int[Tensor, " B"]:
        """A filled position stays, or the blocks before the one that is edited."""
        host, own = batch.host, batch.own
        final = batch.tokens != self.mask_id
        if (edits := own.edits & ~batch.finished).any():
            passed = host.rank < (own.editing_block * own.block_length)[host.canvas]
            final = torch.where(edits[host.canvas], passed, final)
        return batch.leading(~host.editable | final)

    def plan(self, batch: CanvasBatch[ThresholdState]) -> Plan:
        """The rule of each canvas, and how many blocks and steps it has."""
        own = batch.own
        by_entropy = own.entropy_bound.isfinite()
        at_rows, asks = row_settings(
            batch, as_model=True, entropy=by_entropy, crossing=own.crossing, no_eos=own.no_eos
        )
        at_rows |= {"seed": batch.seed, "step": batch.step}
        fixed = (own.strategy == STATIC) | (own.strategy == SEQUENTIAL)
        at_rows["confidence_threshold"] = torch.where(fixed, math.inf, own.confidence_threshold)
        if by_entropy.any():
            at_rows["entropy_bound"] = own.entropy_bound
            at_rows["bounded"] = own.strategy == BOUNDED
        # at temperature 0 the two are the same
        if (as_drawn := own.as_drawn & (batch.temperature != 0)).any():
            at_rows["certainty"] = as_drawn * CERTAINTY.index("sample")
            asks["sample"] = as_drawn.numpy()
        if (sequential := own.strategy == SEQUENTIAL).any():
            at_rows["sequential"] = sequential
        if own.confidence_factor.isfinite().any():
            at_rows["confidence_factor"] = own.confidence_factor
        if (edits := own.edits).any():
            at_rows["editing_threshold"] = own.editing_threshold
        blocks = blocks_of(batch)
        steps_each = (batch.steps // blocks).clamp(min=1)
        quota = torch.where(own.aligned | fixed, -(-own.block_length // steps_each), 1)
        quota = torch.maximum(quota, own.at_least)
        at_canvases = {
            "blocks": blocks,
            "quota": quota,
            "steps_left": (batch.steps - batch.step).clamp(min=1),
            "beyond": batch.lengths,  # more blocks than there can be
        }
        if own.alone_every.any():
            at_canvases["alone_every"] = own.alone_every
        if (average := own.on_average).any():
            filled = average * (batch.step + 1)
            at_canvases["filled"] = torch.where(average > 0, filled, batch.lengths)
            at_canvases["free"] = batch.host.free
        if edits.any():
            of_edits = (edits, own.editing_block, own.post, own.post_steps)
            at_canvases |= zip(editing.COLUMNS, of_edits, strict=True)
        return Plan.of(batch, {"block_length": own.block_length}, at_rows, at_canvases, asks)

    def propose(self, layout: Layout, now: Now, tokens: Int[Tensor, " T"]) -> ThresholdProposal:
        """Find the masks of the first block that has any. Reads no logits."""
        canvas, beyond = layout.canvas, now.of_canvases("beyond")
        masked = layout.editable & (tokens == self.mask_id)
        block_of = layout.rank // now.at_positions(canvas)["block_length"]
        block = beyond.scatter_reduce(
            0, canvas, torch.where(masked, block_of, beyond[canvas]), "amin"
        )
        edited = editing.is_planned(now)
        if edited:
            block = editing.active_blocks(now, block)
        blocks_left = (now.of_canvases("blocks") - block).clamp(min=1)
        steps_left = now.of_canvases("steps_left")
        cramped = steps_left < blocks_left  # after ``shortened``: all masks left are one block
        last = torch.where(cramped, beyond, block)
        marks = masked & (block_of <= last[canvas])
        steps_here = torch.where(cramped, steps_left, steps_left // blocks_left)
        if "alone_every" in now.names[0]:
            start = block * now.of_canvases("block_length")
            marks = first_alone(layout, now, marks, torch.where(steps_here > 1, start, -1))
        masks = layout.counts(marks)
        if edited:
            here = block_of == torch.where(cramped, -1, block)[canvas]
            marks = marks | editing.editable_tokens(layout, now, masked, here)
        least = torch.minimum(masks, now.of_canvases("quota"))
        least, most = torch.maximum(least, -(-masks // steps_here)), None
        if "filled" in now.names[0]:
            before = now.of_canvases("free") - layout.counts(masked)
            most = torch.maximum(now.of_canvases("filled") - before, least)
        return ThresholdProposal(marks, least, most)

    def query(
        self, layout: Layout, tokens: Tensor, proposal: ThresholdProposal, rows: Rows
    ) -> RowQuery:
        """Ask for the model's own probabilities; draw where there is a temperature."""
        its = rows.settings
        u, _ = uniforms(its["seed"], its["step"], rows.position, Role.TOKEN)
        return RowQuery.of(
            its, tokens[rows.at], u, as_model=torch.ones_like(rows.at, dtype=torch.bool)
        )

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Int[Tensor, " T"],
        proposal: ThresholdProposal,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """Fill the most certain masks of each canvas, as many as its rule lets through."""
        size, its = layout.size, rows.settings
        confidence = stats.p_sample
        if stats.certainty is not None and "certainty" in its:
            confidence = torch.where(its["certainty"] != 0, stats.certainty, confidence)
        score = confidence = confidence.float().double()
        of, masked = rows.canvas, tokens[rows.at] == self.mask_id
        if rows.valid is not None:
            of = torch.where(rows.valid, of, size)
        if edits := editing.is_planned(now):
            of = torch.where(masked, of, size)
        by_entropy = None
        if stats.entropy is not None and "entropy_bound" in its:
            by_entropy = its["entropy"] != 0
            score = torch.where(by_entropy, -stats.entropy, confidence)
        if "sequential" in its:
            score = torch.where(its["sequential"] != 0, -rows.position.double(), score)
        place, _ = places(score, of, size + 1)
        passes = confidence >= its["confidence_threshold"]
        if "confidence_factor" in its:
            factor = its["confidence_factor"]
            enough = (place + 2) * (1.0 - confidence) < factor
            passes = torch.where(factor.isfinite(), enough, passes)
        if by_entropy is not None and stats.entropy is not None:
            running = running_sums(stats.entropy, of, place, size + 1, rows.longest)
            bound, strict = its["entropy_bound"], its["bounded"] != 0
            small = torch.where(strict, running < bound, running - stats.entropy <= bound)
            passes = torch.where(by_entropy, small, passes)
        count = F.pad(proposal.least, (0, 1)).scatter_reduce(
            0, of, torch.where(passes, place + 1, 0), "amax"
        )
        if proposal.most is not None:
            count = torch.minimum(count, F.pad(proposal.most, (0, 1)))
        chosen, columns = place < count[of], {}
        if edits:
            chosen = chosen & masked
            differs = stats.sample != tokens[rows.at]
            found = Edits.of(layout, now, rows, masked, chosen, differs, confidence)
            chosen, columns = chosen | found.rows, found.columns
        target = torch.where(chosen, rows.packed, layout.positions)
        after = F.pad(tokens, (0, 1)).scatter_(0, target, stats.sample)[:-1]
        return Written(after, columns)
