"""Numbers of canvases by name and slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class Table:
    """Columns of canvases, on the host: one matrix of whole numbers and flags, one of real numbers.
    A canvas keeps one slot, its index in every column.
    """

    def __init__(self) -> None:
        """An empty table; the first canvases decide its columns."""
        self._kinds: dict[str, np.dtype] = {}
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._matrices = (np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0)))
        self._free: list[int] = []

    def put(self, columns: Mapping[str, np.ndarray]) -> Int[np.ndarray, " B"]:
        """Give B canvases a slot each.

        Args:
            columns: their numbers by name, each [B]; the same names every time.

        Returns:
            the slots.
        """
        kinds = self._kinds or {name: column.dtype for name, column in columns.items()}
        names = (
            tuple(name for name, kind in kinds.items() if kind.kind != "f"),
            tuple(name for name, kind in kinds.items() if kind.kind == "f"),
        )
        new = [np.stack([columns[name] for name in some]) for some in names]
        count, size = new[0].shape[1], self._matrices[0].shape[1]
        grown, free = size, list(self._free)
        while len(free) < count:
            free += range(grown, max(8, 2 * grown))
            grown = max(8, 2 * grown)
        matrices = self._matrices
        if grown > size:
            wide = [np.zeros((len(s), grown), m.dtype) for s, m in zip(new, matrices, strict=True)]
            for wider, known in zip(wide, matrices, strict=True):
                wider[: len(known), :size] = known
            matrices = (wide[0], wide[1])
        slots = np.array(free[:count], dtype=np.int64)
        for matrix, some in zip(matrices, new, strict=True):
            matrix[:, slots] = some
        self._kinds, self._names, self._free = kinds, names, free[count:]
        self._matrices = matrices
        return slots

    def drop(self, slots: Iterable[int]) -> None:
        """Make slots free."""
        self._free += slots

    def __getitem__(self, name: str) -> np.ndarray:
        """A column, by slot; whole numbers for flags. It may be written to."""
        names, (whole, real) = self._names, self._matrices
        return whole[names[0].index(name)] if name in names[0] else real[names[1].index(name)]

    def take(self, slots: Int[np.ndarray, " B"]) -> dict[str, Tensor]:
        """Copies of all columns of some canvases, each [B]."""
        found: dict[str, Tensor] = {}
        for names, matrix in zip(self._names, self._matrices, strict=True):
            part = torch.from_numpy(matrix.take(slots, axis=1))
            found |= zip(names, part.unbind(0), strict=True)
        flags = {n: found[n] != 0 for n, kind in self._kinds.items() if kind.kind == "b"}
        return found | flags
