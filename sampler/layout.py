"""Where the canvases of a batch lie among its packed positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.transfer import to_device


@dataclass(frozen=True)
class Layout:
    """B canvases end to end in T packed positions; made when a canvas comes or goes.

    Attributes:
        lengths: positions of each canvas, on the host.
        canvas: which canvas each packed position belongs to, ascending.
        position: its index on that canvas.
        rank: how many editable positions of the canvas lie before it; blocks count these. A given
            position has the rank of the editable one before it, or one less than the first.
        editable: where the sampler may write; other positions are given.
        ends: where each canvas ends among the packed positions.
        first: rank of the first editable position of each canvas, on the host: 0, or where it lies
            in its block if blocks are counted from the first position of the canvas.
        pinned: editable positions that keep the token that they begin with; None where there are
            none.
    """

    lengths: Int[Tensor, " B"]
    canvas: Int[Tensor, " T"]
    position: Int[Tensor, " T"]
    rank: Int[Tensor, " T"]
    editable: Bool[Tensor, " T"]
    ends: Int[Tensor, " B"]
    first: Int[Tensor, " B"]
    pinned: Bool[Tensor, " T"] | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int] | np.ndarray,
        editable: Sequence[bool] | np.ndarray,
        first: Sequence[int] | np.ndarray | None = None,
        pinned: np.ndarray | None = None,
    ) -> Layout:
        """Canvases of these lengths, on the host; ``editable`` and ``pinned`` are of all positions,
        ``first`` as the attribute, zeros where None.
        """
        sizes = np.asarray(lengths, dtype=np.int64)
        free = np.asarray(editable, dtype=bool)
        ends = sizes.cumsum()
        starts = ends - sizes
        canvas = np.repeat(np.arange(len(sizes)), sizes)
        written = np.concatenate(([0], free.cumsum()))
        begin = np.zeros_like(sizes) if first is None else np.asarray(first, dtype=np.int64)
        return cls(
            torch.from_numpy(sizes),
            torch.from_numpy(canvas),
            torch.from_numpy(np.arange(len(canvas)) - np.repeat(starts, sizes)),
            torch.from_numpy(written[1:] - np.repeat(written[starts] - begin, sizes) - 1),
            torch.from_numpy(free),
            torch.from_numpy(ends),
            torch.from_numpy(begin),
            torch.from_numpy(pinned) if pinned is not None and pinned.any() else None,
        )

    @property
    def size(self) -> int:
        """B, the number of canvases."""
        return len(self.lengths)

    @property
    def positions(self) -> int:
        """T, the number of packed positions."""
        return len(self.canvas)

    @property
    def device(self) -> torch.device:
        """Where the positions' columns are."""
        return self.canvas.device

    def sent(
        self, tokens: Int[Tensor, " T"], device: torch.device
    ) -> tuple[Layout, Int[Tensor, " T"]]:
        """The layout and ids of its positions on a device, in one copy; ``lengths`` and ``first``
        stay on the host.
        """
        if device.type == "cpu":
            return self, tokens
        columns = [self.canvas, self.position, self.rank, self.editable.long(), tokens, self.ends]
        if self.pinned is not None:
            columns.append(self.pinned.long())
        together = to_device(torch.cat(columns), device)
        canvas, position, rank, editable, ids, ends, *pinned = together.split(
            [len(c) for c in columns]
        )
        there = Layout(self.lengths, canvas, position, rank, editable.bool(), ends, self.first)
        return (replace(there, pinned=pinned[0].bool()) if pinned else there), ids

    def counts(self, marks: Bool[Tensor, " T"]) -> Int[Tensor, " B"]:
        """How many positions of each canvas are marked."""
        none = torch.zeros_like(self.ends)
        return none.index_add_(0, self.canvas, marks.to(none.dtype))

    @cached_property
    def last_given(self) -> Int[Tensor, " B"]:
        """The last position of each canvas that is given, -1 where none is."""
        given = torch.where(self.editable, -1, self.position)
        none = torch.full_like(self.ends, -1)
        return none.scatter_reduce(0, self.canvas, given, "amax")

    @cached_property
    def free(self) -> Int[Tensor, " B"]:
        """Editable positions of each canvas."""
        return self.counts(self.editable)
