"""The canvases of one sampler that take a step together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int

from sampler.batch import CanvasBatch
from server.engine.stream import Subscription

if TYPE_CHECKING:
    from server.engine.canvases import Canvases

GONE = -1


@dataclass(frozen=True)
class Part:
    """Canvases that take a step together.

    Attributes:
        canvases: which they are of.
        slots: theirs; ``GONE`` for those that are in the batch and take no part any more.
        places: their positions in the arena.
        owners: their requests; None for those that are gone.
        batch: their tokens and settings.
    """

    canvases: Canvases
    slots: Int[np.ndarray, " B"]
    places: Int[np.ndarray, " T"]
    owners: list[Subscription | None]
    batch: CanvasBatch

    @property
    def size(self) -> int:
        """How many canvases take part."""
        return len(self.slots[self.present])

    @property
    def present(self) -> slice | np.ndarray:
        """Index of the canvases that take part, among B."""
        return slice(None) if self.batch.active is None else self.batch.active.numpy()

    @property
    def positions(self) -> slice | np.ndarray:
        """Index of their positions, among T."""
        if self.batch.active is None:
            return slice(None)
        return self.batch.active.numpy()[self.batch.host.canvas.numpy()]

    def without(self, slots: Int[np.ndarray, " G"]) -> Part | None:
        """The part without some canvases; None where little else would be left of the batch.

        They stay in the batch. A step that is already proposed for them is taken and not read; with
        its settings the device learns that they ask for nothing any more.
        """
        stay = ~np.isin(self.slots, slots) & (self.slots != GONE)
        lengths = self.batch.lengths.numpy()
        if 2 * lengths[stay].sum() < lengths.sum():
            return None
        batch = replace(self.batch, active=torch.from_numpy(stay))
        owners = [o if s else None for o, s in zip(self.owners, stay.tolist(), strict=True)]
        return replace(self, slots=np.where(stay, self.slots, GONE), owners=owners, batch=batch)

    def halves(self) -> tuple[Part, Part]:
        """Two parts of half the canvases each."""
        slots = self.slots[self.present]
        middle = len(slots) // 2
        return self.canvases.part_of(slots[:middle]), self.canvases.part_of(slots[middle:])
