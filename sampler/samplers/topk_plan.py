"""The hybrid sampler's parameters and its plan: how many masks to fill and how many tokens to
refine at each step (the budgets of Algorithm 1), block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.params import (
    MAX_STEPS,
    MIXING_RATIO,
    BlockParams,
    InvalidParam,
    SamplingParams,
    choice,
    flag,
    integer,
    param,
    schedule,
)
from sampler.state import Columns, SamplerState

REFINE_SCOPE = choice(
    "tokens that may be refined: all generated so far, or the active block's",
    "generated",
    "block",
    label="Refine in",
)
REMASKING = choice("order in which masks are filled", "low_confidence", "random", label="Fill by")
FARTHEST = 16
"""The greatest ``spacing``."""
COMPAT = choice("official repeats the published loop, quirks included", "none", "official")


@dataclass(frozen=True)
class StepPlan:
    """The work of the hybrid sampler at each step of one request: three lists of T numbers.

    Attributes:
        block: the active block.
        absorb: masks to fill.
        refine: tokens to refine.
    """

    block: list[int]
    absorb: list[int]
    refine: list[int]


def absorb_budget(masked: int, steps: int) -> list[int]:
    """Masks to fill at each of a block's steps: as even as whole numbers allow, more at first."""
    whole, rest = divmod(masked, steps)
    return [whole + (i < rest) for i in range(steps)]


def refine_budget(absorb: Sequence[int], mixing_ratio: float) -> list[int]:
    """Tokens to refine at each of a block's steps: after i steps, k / (1 - k) of the masks filled.

    The cumulative rule of the LLaDA-XDLM code, in fp32 as there; the first step refines nothing.
    """
    filled = torch.tensor(list(accumulate(absorb)), dtype=torch.float32)
    refined = (filled * mixing_ratio / (1.0 - mixing_ratio)).long()
    refined[:1] = 0
    return [*refined[:1].tolist(), *refined.diff().tolist()]


def step_plan(params: SamplingParams, free: int, first: int = 0) -> StepPlan:
    """Plan a canvas with ``free`` masked positions.

    Steps are shared among the blocks as evenly as whole numbers allow. Aligned blocks have the
    budgets of whole blocks, though the first one has fewer masks; it is done in fewer steps then.

    Args:
        params: of the topk sampler.
        free: positions to fill.
        first: rank of the first of them.

    Raises:
        InvalidParam: budgets, blocks and steps that do not fit the canvas.
    """
    own = params.own
    assert isinstance(own, TopKParams)
    own.check_canvas(params.steps, free + first)
    length = own.block_positions(free)
    length = length if own.block_aligned else min(length, free) or 1
    blocks = max(1, -(-(free + first) // length))
    plan = StepPlan([], [], [])
    for b, steps in enumerate(absorb_budget(params.steps, blocks)):
        now = slice(len(plan.block), len(plan.block) + steps)
        masks = min(free, (b + 1) * length - first) - max(0, b * length - first)
        absorb = absorb_budget(length if own.block_aligned else masks, steps)
        before = accumulate(absorb, initial=0)
        absorb = [max(0, min(n, masks - filled)) for n, filled in zip(absorb, before, strict=False)]
        if own.topk_absorb != "even":
            absorb = list(own.topk_absorb[now])
        refine = refine_budget(absorb, own.mixing_ratio)
        if own.topk_uniform != "auto":
            refine = list(own.topk_uniform[now])
        plan.block.extend([b] * steps)
        plan.absorb.extend(absorb)
        plan.refine.extend(refine)
    return plan


@dataclass(frozen=True)
class TopKState(SamplerState):
    """Columns, [B] where no other shape is given.

    Attributes:
        mixing_ratio: k.
        refine_scope, remasking, compat: index into their words.
        crossing: of ``top_p_rule``.
        spacing: of the parameters.
        no_eos, ends_last: ``logits_eos_inf`` and ``confidence_eos_eot_inf``.
        block_length: positions of a block; all that are free where none was chosen.
        carry: refinements planned and not spent so far.
        plan_steps: entries of each request in the plan.
        plan_block, plan_absorb, plan_refine: see ``StepPlan``; the P planned steps of all
            requests, one request after the other, [P].
    """

    lists = ("plan_block", "plan_absorb", "plan_refine")
    list_lengths = "plan_steps"

    mixing_ratio: Float[Tensor, " B"]
    refine_scope: Int[Tensor, " B"]
    remasking: Int[Tensor, " B"]
    compat: Int[Tensor, " B"]
    crossing: Bool[Tensor, " B"]
    spacing: Int[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]
    ends_last: Bool[Tensor, " B"]
    block_length: Int[Tensor, " B"]
    carry: Int[Tensor, " B"]
    plan_steps: Int[Tensor, " B"]
    plan_block: Int[Tensor, " P"]
    plan_absorb: Int[Tensor, " P"]
    plan_refine: Int[Tensor, " P"]

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases, planned."""
        own = [p.own for p in params]
        plans = [step_plan(p, n, start) for p, n, start in zip(params, free, first, strict=True)]
        lengths = [max(1, o.block_positions(n)) for o, n in zip(own, free, strict=True)]
        return cls(
            mixing_ratio=columns.reals([o.mixing_ratio for o in own]),
            refine_scope=columns.integers([REFINE_SCOPE.words.index(o.refine_scope) for o in own]),
            remasking=columns.integers([REMASKING.words.index(o.remasking) for o in own]),
            compat=columns.integers([COMPAT.words.index(o.compat) for o in own]),
            crossing=columns.flags([o.keeps_crossing for o in own]),
            spacing=columns.integers([0 if o.compat == "official" else o.spacing for o in own]),
            no_eos=columns.flags([o.logits_eos_inf for o in own]),
            ends_last=columns.flags([o.confidence_eos_eot_inf for o in own]),
            block_length=columns.integers(lengths),
            carry=columns.integers([0] * len(own)),
            plan_steps=columns.integers([len(plan.block) for plan in plans]),
            plan_block=columns.integers([x for plan in plans for x in plan.block]),
            plan_absorb=columns.integers([x for plan in plans for x in plan.absorb]),
            plan_refine=columns.integers([x for plan in plans for x in plan.refine]),
        )

    def planned(self, step: Tensor) -> Int[Tensor, " B"]:
        """Index of a step in the plan; the last entry for canvases that are done."""
        starts = self.plan_steps.cumsum(0) - self.plan_steps
        return starts + step.clamp(max=self.plan_steps - 1)

    def block(self, step: Tensor) -> Int[Tensor, " B"]:
        """Index of the active block at a step."""
        return self.plan_block[self.planned(step)]

    def active_block(
        self, batch: CanvasBatch[Any], mask_id: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SamplerState``: as planned."""
        del mask_id
        length = self.block_length.numpy()
        first = self.block(batch.step).numpy() * length
        return first, first + length

    def shortened(self, batch: CanvasBatch[Any], fewer: Tensor) -> Any:
        """New plans for the canvases with fewer steps: what was planned is shared among the steps
        that are left.
        """
        canvases = torch.nonzero(fewer)[:, 0].tolist()
        if not canvases:
            return self
        plans = {name: self._lists(name) for name in self.lists}
        block_length, carry = self.block_length.clone(), self.carry.clone()
        for b in canvases:
            step, steps = int(batch.step[b]), int(batch.steps[b])
            ahead = zip(*(plans[name][b][step:] for name in self.lists), strict=True)
            sums = [
                (block, *map(sum, zip(*((a, r) for _, a, r in entries), strict=True)))
                for block, entries in groupby(ahead, key=lambda entry: entry[0])
            ]
            if steps - step < len(sums):  # no step for each block: all masks left are one
                block_length[b], carry[b] = batch.lengths[b], 0
                sums = [(0, sum(absorb for _, absorb, _ in sums), 0)]
            rest: list[list[int]] = [[], [], []]
            for (block, absorb, refine), count in zip(
                sums, absorb_budget(steps - step, len(sums)), strict=True
            ):
                rest[0] += [block] * count
                rest[1] += absorb_budget(absorb, count)
                rest[2] += absorb_budget(refine, count)
            for name, entries in zip(self.lists, rest, strict=True):
                plans[name][b] = plans[name][b][:step] + entries
        counts = torch.tensor([len(plan) for plan in plans["plan_block"]]).to(carry)
        entries = {n: torch.tensor([x for p in plans[n] for x in p]).to(carry) for n in plans}
        return replace(self, block_length=block_length, carry=carry, plan_steps=counts, **entries)

    def _lists(self, name: str) -> list[list[int]]:
        return [part.tolist() for part in getattr(self, name).split(self.plan_steps.tolist())]


@dataclass(frozen=True)
class TopKParams(BlockParams):
    """Parameters of the hybrid sampler."""

    state = TopKState
    reads_open_masks = True
    mixing_ratio: float = param(MIXING_RATIO)
    topk_absorb: Literal["even"] | tuple[int, ...] = param(
        schedule("even", "masks to fill at each step, one entry per step; even spreads them")
    )
    topk_uniform: Literal["auto"] | tuple[int, ...] = param(
        schedule(
            "auto",
            "tokens to refine at each step, one entry per step; auto follows the masks filled so "
            "far by k / (1 - k)",
        )
    )
    refine_scope: str = param(REFINE_SCOPE)
    remasking: str = param(REMASKING)
    spacing: int = param(
        integer(
            0,
            "fill masks last that have a more confident one within so many positions: tokens of "
            "one step are drawn independently, and neighbours depend on each other",
            0,
            FARTHEST,
        )
    )
    confidence_eos_eot_inf: bool = param(
        flag(False, "write the ends of text and turn last", label="Ends last")
    )
    compat: str = param(COMPAT)

    def check_together(self) -> None:
        """Raise InvalidParam for k = 1, and for a random order with uniform noise."""
        if self.mixing_ratio == 1.0:
            raise InvalidParam("mixing_ratio", "must be below 1 for the topk sampler")
        if self.remasking == "random" and self.mixing_ratio > 0.0:
            raise InvalidParam("remasking", "random needs mixing_ratio 0")

    def unread(self) -> dict[str, str]:
        """The published loop has an order of its own."""
        return {"spacing": "is not for compat official"} if self.compat == "official" else {}

    def most_steps(self, free: int) -> int:
        """In aligned blocks without refinement each step fills a mask."""
        if not self.block_aligned or self.mixing_ratio > 0 or self.topk_absorb != "even":
            return MAX_STEPS
        length = self.block_positions(free)
        return -(-free // length) * length

    def check_cached(self) -> None:
        """Raise InvalidParam for the published loop, which has no cache."""
        if self.compat == "official":
            raise InvalidParam("cache", "is not for compat official")

    def check_canvas(self, steps: int, free: int) -> None:
        """Raise InvalidParam for budgets, blocks and steps that do not fit the canvas."""
        super().check_canvas(steps, free)
        length = min(self.block_positions(free), free) or 1
        blocks = max(1, -(-free // length))
        if self.fixed_steps and (free % length or steps % blocks):
            raise InvalidParam("block_length", "must divide the length and give a divisor of steps")
        if self.topk_absorb != "even" and sum(self.topk_absorb) != free:
            total = sum(self.topk_absorb)
            raise InvalidParam(
                "topk_absorb", f"must sum to the {free} masked positions, not {total}"
            )

    @property
    def fixed_by(self) -> str:
        """The published loop takes all its steps."""
        return "compat: official" if self.compat == "official" else ""

    @property
    def reads_given_masks(self) -> bool:
        """The published loop fills masks of a prompt too."""
        return self.compat == "official"
