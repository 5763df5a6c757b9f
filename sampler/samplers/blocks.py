"""Blocks of the samplers that fill them from left to right: how many a canvas has, and the first
position of a block written alone, as Fast-dLLM does.

In networks whose logits are shifted by one, the hidden state that predicts a block's first token
belongs to the block before. Fast-dLLM v2 takes it from the pass that keeps that block's keys and
values; the caches of Fast-dLLM for Dream take it from the pass over the whole canvas, with which a
block begins. Either way no other position is written in that step.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.now import Now
from sampler.params import SamplingParams


def blocks_of(batch: CanvasBatch[Any]) -> Int[Tensor, " B"]:
    """How many blocks each canvas has; ``block_length`` is a column of its sampler."""
    host = batch.host
    return (-(-(host.free + host.first) // batch.own.block_length)).clamp(min=1)


def alone_every(params: SamplingParams) -> int:
    """Positions from one that is written alone to the next; 0 where none is.

    Args:
        params: of a sampler with ``first_alone`` among its own.
    """
    own: Any = params.own
    kept = own.block_aligned or params.cache not in ("none", "prompt")
    return (own.block_length or 0) if own.first_alone and kept else 0


def first_alone(
    layout: Layout, now: Now, marks: Bool[Tensor, " T"], start: Int[Tensor, " B"]
) -> Bool[Tensor, " T"]:
    """The marks, or the first position of the active block alone where it is marked.

    Args:
        layout, now: the canvases; their column ``alone_every`` is read per canvas.
        marks: positions that a step may write.
        start: rank of the first position of the active block; -1 for canvases that are exempt.
    """
    every = now.of_canvases("alone_every")
    begins = (every > 0) & (start >= 0) & (start % every.clamp(min=1) == 0)
    first = marks & (layout.rank == start[layout.canvas]) & begins[layout.canvas]
    alone = layout.counts(first) > 0
    return torch.where(alone[layout.canvas], first, marks)
