"""A sampler's own columns of a batch: one tensor entry per canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Makes host tensors from Python lists."""

    def integers(self, values: Sequence[int]) -> Tensor:
        """An int64 tensor."""
        return torch.from_numpy(np.array(values, dtype=np.int64))

    def flags(self, values: Sequence[bool]) -> Tensor:
        """A bool tensor."""
        return torch.from_numpy(np.array(values, dtype=bool))

    def reals(self, values: Sequence[float]) -> Tensor:
        """A float64 tensor."""
        return torch.from_numpy(np.array(values, dtype=np.float64))


@dataclass(frozen=True)
class SamplerState:
    """Base of a sampler's own columns. Each field is a tensor with one entry per canvas, [B].

    Attributes:
        lists: fields that hold a list per canvas instead, the lists of all canvases end to end;
            whole numbers.
        list_lengths: the field that has the lists' lengths; all lists of a canvas have the same.
    """

    lists: ClassVar[tuple[str, ...]] = ()
    list_lengths: ClassVar[str] = ""

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases.

        Args:
            params: the ``SamplingParams`` of each.
            free: editable positions of each.
            first: rank of the first of them, of each; see ``Layout``.
            columns: makes the tensors.

        Raises:
            InvalidParam: params that do not fit their canvas.
        """
        return cls()

    @classmethod
    @cache
    def of_canvases(cls) -> tuple[str, ...]:
        """Names of the fields with one entry per canvas, in order."""
        return tuple(f.name for f in fields(cls) if f.name not in cls.lists)

    def kept(self, keep: Tensor) -> Any:
        """The canvases where keep [B] is true, in order."""
        found = {n: getattr(self, n)[keep] for n in self.of_canvases()}
        if self.lists:
            entries = keep.repeat_interleave(getattr(self, self.list_lengths))
            found |= {n: getattr(self, n)[entries] for n in self.lists}
        return type(self)(**found)

    def block(self, step: Tensor) -> Tensor:
        """Index of the active block at a step, [B]; 0 for samplers without blocks."""
        return torch.zeros_like(step)

    def block_steps(self, batch: Any) -> np.ndarray:
        """Steps that the active block of each canvas of a ``CanvasBatch`` has been through, [B],
        for networks that read it; 0 for samplers of others.
        """
        return np.zeros_like(batch.step.numpy())

    def active_block(self, batch: Any, mask_id: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of editable positions where the active block of the next step begins and ends, both
        [B]; the whole canvas for samplers without blocks.

        Args:
            batch: the ``CanvasBatch``, its tokens on the host.
            mask_id: of the vocabulary.
        """
        del mask_id
        whole = batch.lengths.numpy()
        return np.zeros_like(whole), whole

    def shortened(self, batch: Any, fewer: Tensor) -> Any:
        """The columns after some requests were given fewer steps.

        Args:
            batch: the ``CanvasBatch``, its ``steps`` already reduced.
            fewer: which of them were, [B].
        """
        return self
