"""Fewer steps for canvases that are under way, so that they are complete in time.

The noise left on a canvas belongs to a time of its schedule. Ancestral canvases walk the rest of
that time in longer steps; the hybrid sampler shares what it had planned among the steps left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor

from sampler.batch import BY_PLANNED_STEP, CanvasBatch
from sampler.schedules import absorb_budget, times


def shortened(batch: CanvasBatch, left: Int[Tensor, " B"]) -> CanvasBatch:
    """Every canvas takes at most ``left`` >= 1 more steps (noise removal not counted)."""
    fewer = batch.steps - batch.step > left
    steps = torch.where(fewer, batch.step + left, batch.steps)
    now, _ = times(batch.step, batch.steps, batch.from_step, batch.from_time)
    batch = replace(
        batch,
        steps=steps,
        calls=batch.calls - batch.steps + steps,
        from_step=torch.where(fewer, batch.step, batch.from_step),
        from_time=torch.where(fewer, now, batch.from_time),
    )
    planned = torch.nonzero(fewer & (batch.plan_steps > 0))[:, 0].tolist()
    return _replanned(batch, planned) if planned else batch


def _replanned(batch: CanvasBatch, canvases: Sequence[int]) -> CanvasBatch:
    """New plans for a few canvases, as long as their ``steps`` say."""
    plans = {name: _lists(getattr(batch, name), batch) for name in BY_PLANNED_STEP}
    block_length, carry = batch.block_length.clone(), batch.carry.clone()
    for b in canvases:
        step, steps = int(batch.step[b]), int(batch.steps[b])
        ahead = zip(*(plans[name][b][step:] for name in BY_PLANNED_STEP), strict=True)
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
        for name, entries in zip(BY_PLANNED_STEP, rest, strict=True):
            plans[name][b] = plans[name][b][:step] + entries
    return replace(
        batch,
        block_length=block_length,
        carry=carry,
        plan_steps=torch.tensor([len(p) for p in plans["plan_block"]]).to(carry),
        **{
            name: torch.tensor([x for plan in plans[name] for x in plan]).to(carry)
            for name in BY_PLANNED_STEP
        },
    )


def _lists(plan: Tensor, batch: CanvasBatch) -> list[list[int]]:
    return [part.tolist() for part in plan.split(batch.plan_steps.tolist())]
