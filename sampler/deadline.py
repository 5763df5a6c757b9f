"""Fewer steps for canvases that are under way, so that they are complete in time.

The noise left on a canvas belongs to a time of its schedule. Canvases on a time grid walk the rest
of that time in longer steps; samplers that plan share the rest of the plan among the steps left.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from sampler.batch import CanvasBatch, State
from sampler.schedules import times


def shortened(batch: CanvasBatch[State], left: Int[Tensor, " B"]) -> CanvasBatch[State]:
    """Give every canvas at most ``left`` >= 1 more steps (noise removal not counted)."""
    fewer = batch.steps - batch.step > left
    if not bool(fewer.any()):
        return batch
    steps = torch.where(fewer, batch.step + left, batch.steps)
    now, _ = times(batch.step, batch.steps, batch.from_step, batch.from_time)
    batch = replace(
        batch,
        steps=steps,
        calls=batch.calls - batch.steps + steps,
        from_step=torch.where(fewer, batch.step, batch.from_step),
        from_time=torch.where(fewer, now, batch.from_time),
        asked=None,
        ahead=None,
    )
    return replace(batch, own=batch.own.shortened(batch, fewer))
