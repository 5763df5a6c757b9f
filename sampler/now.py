"""A step's settings of every canvas, as the device reads them: two matrices made on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.transfer import to_device

Columns = Mapping[str, Tensor]
"""Host columns by name, each with one entry per canvas."""


@dataclass(frozen=True)
class Now:
    """The settings of B canvases in one step: everything that follows from its step count and its
    parameters, computed on the host and copied in one piece.

    Rows of both matrices are columns of the canvases by name: first those read at positions, then
    those read at rows of logits, then those read per canvas. Biases of M ids come last.

    Attributes:
        whole: whole numbers and flags.
        real: real numbers.
        names: of the rows of ``whole`` and of ``real``.
        ends: of both, where the columns of positions end, and those of rows.
    """

    whole: Int[Tensor, "I B"]
    real: Float[Tensor, "F B"]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    ends: tuple[tuple[int, int], tuple[int, int]]

    @classmethod
    def of(
        cls,
        at_positions: Columns,
        at_rows: Columns,
        at_canvases: Columns,
        bias_ids: Int[Tensor, "B M"],
        bias: Float[Tensor, "B M"],
    ) -> Now:
        """The matrices of host columns; ids and biases are read at rows."""
        groups = [list(columns.items()) for columns in (at_positions, at_rows, at_canvases)]
        matrices, names, ends = [], [], []
        for real, last in ((False, bias_ids), (True, bias)):
            kept = [[e for e in g if e[1].is_floating_point() is real] for g in groups]
            entries = [entry for group in kept for entry in group]
            kind = np.float64 if real else np.int64
            matrix = np.empty((len(entries) + last.shape[1], len(last)), dtype=kind)
            for row, (_, column) in zip(matrix, entries, strict=False):
                row[:] = column.numpy()
            matrix[len(entries) :] = last.numpy().T
            matrices.append(torch.from_numpy(matrix))
            names.append(tuple(name for name, _ in entries))
            ends.append((len(kept[0]), len(kept[0]) + len(kept[1])))
        return cls(matrices[0], matrices[1], (names[0], names[1]), (ends[0], ends[1]))

    def to(self, device: torch.device) -> Now:
        """The matrices on a device, in one copy."""
        if device.type == "cpu":
            return self
        both = to_device(torch.cat((self.whole, self.real.view(torch.int64))), device)
        count = len(self.whole)
        return replace(self, whole=both[:count], real=both[count:].view(torch.float64))

    def with_columns(self, columns: Columns) -> Now:
        """The same settings with other values in some whole columns [B]."""
        names, _ = self.names
        whole = list(self.whole.unbind(0))
        for name, column in columns.items():
            whole[names.index(name)] = column
        return replace(self, whole=torch.stack(whole)) if columns else self

    def of_canvases(self, name: str) -> Tensor:
        """One column, [B]."""
        whole, real = self.names
        return self.whole[whole.index(name)] if name in whole else self.real[real.index(name)]

    def at_positions(self, canvas: Int[Tensor, " T"]) -> dict[str, Tensor]:
        """The whole numbers read at positions, each [T]."""
        end, _ = self.ends[0]
        found = self.whole[:end].index_select(1, canvas)
        return dict(zip(self.names[0], found.unbind(0), strict=False))

    def by_token(self, canvas: Int[Tensor, " T"], masked: Bool[Tensor, " T"]) -> dict[str, Tensor]:
        """The real numbers read at positions, each [T]. They stand in pairs, ``name`` for masks and
        then one for other tokens; ``masked`` says which of the two is read.
        """
        end, _ = self.ends[1]
        pairs = self.real[:end].reshape(end // 2, -1)
        found = pairs.index_select(1, torch.where(masked, canvas, canvas + self.real.shape[1]))
        return dict(zip(self.names[1][:end:2], found.unbind(0), strict=True))

    def at_rows(self, canvas: Int[Tensor, " R"]) -> dict[str, Tensor]:
        """The columns read at rows, each [R]; biases as ``bias_ids`` and ``bias`` [R, M] where
        there are any.
        """
        found: dict[str, Tensor] = {}
        for matrix, names, (start, end), last in zip(
            (self.whole, self.real), self.names, self.ends, ("bias_ids", "bias"), strict=True
        ):
            if end > start:
                gathered = matrix[start:end].index_select(1, canvas)
                found |= zip(names[start:end], gathered.unbind(0), strict=True)
            if len(matrix) > len(names):
                found[last] = matrix[len(names) :].index_select(1, canvas).T
        return found
