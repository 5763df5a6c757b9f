"""A sampler's own columns of a batch: one tensor entry per canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sampler.packing import joined


@dataclass(frozen=True)
class Columns:
    """Makes host tensors from Python lists."""

    def integers(self, values: Sequence[int]) -> Tensor:
        """An int64 tensor."""
        return torch.tensor(values, dtype=torch.int64)

    def flags(self, values: Sequence[bool]) -> Tensor:
        """A bool tensor."""
        return torch.tensor(values, dtype=torch.bool)

    def reals(self, values: Sequence[float]) -> Tensor:
        """A float64 tensor."""
        return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class SamplerState:
    """Base of a sampler's own columns. Each field is a tensor with one entry per canvas, [B],
    unless a subclass overrides ``kept`` and ``joined``.
    """

    @classmethod
    def of(cls, params: Sequence[Any], free: Sequence[int], columns: Columns) -> Any:
        """The columns of new canvases.

        Args:
            params: the ``SamplingParams`` of each.
            free: editable positions of each.
            columns: makes the tensors.

        Raises:
            InvalidParam: params that do not fit their canvas.
        """
        return cls()

    def joined(self, other: Any) -> Any:
        """These canvases, then those of another state."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return type(self)(*(joined(pair) for pair in pairs))

    def kept(self, keep: Tensor) -> Any:
        """The canvases where keep [B] is true, in order."""
        return type(self)(*(getattr(self, f.name)[keep] for f in fields(self)))

    def block(self, step: Tensor) -> Tensor:
        """Index of the active block at a step, [B]; 0 for samplers without blocks."""
        return torch.zeros_like(step)

    def shortened(self, batch: Any, fewer: Tensor) -> Any:
        """The columns after some requests were given fewer steps.

        Args:
            batch: the ``CanvasBatch``, its ``steps`` already reduced.
            fewer: which of them were, [B].
        """
        return self
