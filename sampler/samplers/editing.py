"""Editing of the active block, as LLaDA2.1 decodes: tokens are replaced while its masks are filled,
and after that until nothing changes or ``post_steps`` are over. Then the next block begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.layout import Layout
from sampler.now import Now
from sampler.plan import Rows

COLUMNS = ("edits", "editing_block", "post", "post_steps")
"""Read per canvas where any canvas of a batch is edited: whether it is, its active block, steps
that this block was edited in since it was full, and how many such steps there may be."""


def is_planned(now: Now) -> bool:
    """Whether any canvas of a batch is edited."""
    return COLUMNS[0] in now.names[0]


def active_blocks(now: Now, block: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The active block of each canvas; ``block``: the first that has masks."""
    return torch.where(now.of_canvases("edits") != 0, now.of_canvases("editing_block"), block)


def editable_tokens(
    layout: Layout,
    now: Now,
    masked: Bool[Tensor, " T"],
    in_block: Bool[Tensor, " T"],
) -> Bool[Tensor, " T"]:
    """Tokens that a step may replace: written ones of the active block of edited canvases."""
    edits = (now.of_canvases("edits") != 0)[layout.canvas]
    return layout.editable & ~masked & in_block & edits


@dataclass(frozen=True)
class Edits:
    """The edits of a step, and the state of the blocks after it.

    Attributes:
        rows: rows whose token is replaced.
        columns: active block and ``post`` of each canvas after the step.
    """

    rows: Bool[Tensor, " R"]
    columns: dict[str, Int[Tensor, " B"]]

    @classmethod
    def of(
        cls,
        layout: Layout,
        now: Now,
        rows: Rows,
        masked: Bool[Tensor, " R"],
        filled: Bool[Tensor, " R"],
        differs: Bool[Tensor, " R"],
        confidence: Float[Tensor, " R"],
    ) -> Edits:
        """The edits of a step.

        Args:
            layout, now: the canvases and their settings.
            rows: positions that were read.
            masked: rows that hold a mask.
            filled: those of them that the step fills.
            differs: rows where the model would rather have another token.
            confidence: its probability.
        """
        edited = ~masked & differs & (confidence > rows.settings["editing_threshold"])
        if rows.valid is not None:
            edited = edited & rows.valid
            masked, filled = masked & rows.valid, filled & rows.valid

        def of_canvases(marks: Bool[Tensor, " R"]) -> Int[Tensor, " B"]:
            return torch.zeros_like(layout.ends).index_add_(0, rows.canvas, marks.long())

        masks, left = of_canvases(masked), of_canvases(masked & ~filled)
        read = of_canvases(torch.ones_like(masked) if rows.valid is None else rows.valid)
        block, post = now.of_canvases("editing_block"), now.of_canvases("post")
        post = torch.where(masks > 0, 0, post + 1)
        quiet = (masks == 0) & (of_canvases(edited) == 0)
        over = (read > 0) & (left == 0) & (quiet | (post >= now.of_canvases("post_steps")))
        after = {"editing_block": block + over.long(), "post": torch.where(over, 0, post)}
        return cls(edited, after)
