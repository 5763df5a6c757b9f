"""The positions of an engine's canvases, on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from sampler.cache import NOTHING
from server.engine.extents import Extents


class Arena:
    """One line of positions. A canvas lies in one extent of it, from its admission to its release.

    Attributes:
        tokens: ids, as the last successful step left them.
        editable: where a sampler may write.
        held: ids whose keys and values are kept; ``NOTHING`` elsewhere.
        noise: positions that hold noise which no mask shows.
        pinned: editable positions that keep the token that they begin with.
    """

    def __init__(self, size: int = 1024) -> None:
        """``size``: positions at first; the line grows as needed."""
        self.tokens: Int[np.ndarray, " N"] = np.zeros(size, dtype=np.int64)
        self.editable: Bool[np.ndarray, " N"] = np.zeros(size, dtype=bool)
        self.held: Int[np.ndarray, " N"] = np.full(size, NOTHING)
        self.noise: Bool[np.ndarray, " N"] = np.zeros(size, dtype=bool)
        self.pinned: Bool[np.ndarray, " N"] = np.zeros(size, dtype=bool)
        self._extents = Extents(size)

    def admit(
        self,
        lengths: Int[np.ndarray, " B"],
        tokens: Int[np.ndarray, " T"],
        editable: Bool[np.ndarray, " T"],
        noise: Bool[np.ndarray, " T"] | None = None,
        pinned: Bool[np.ndarray, " T"] | None = None,
    ) -> Int[np.ndarray, " B"]:
        """Give each canvas the first free extent that is long enough; where there is none, the line
        doubles. All are admitted, or none.

        Args:
            lengths: positions of each.
            tokens, editable, noise, pinned: of all their positions, one canvas after the other.

        Returns:
            where each begins.
        """
        extents, starts = self._extents.copy(), []
        for length in lengths.tolist():
            while (start := extents.take(length)) is None:
                extents.grow(extents.size)
            starts.append(start)
        found = np.array(starts, dtype=np.int64)
        places, more = places_of(found, lengths), extents.size - len(self.tokens)
        ids, may, held, noisy = self.tokens, self.editable, self.held, self.noise
        kept = self.pinned
        if more:
            ids = np.concatenate((ids, np.zeros(more, np.int64)))
            may = np.concatenate((may, np.zeros(more, bool)))
            held = np.concatenate((held, np.full(more, NOTHING)))
            noisy = np.concatenate((noisy, np.zeros(more, bool)))
            kept = np.concatenate((kept, np.zeros(more, bool)))
        ids[places], may[places], held[places] = tokens, editable, NOTHING
        noisy[places] = False if noise is None else noise
        kept[places] = False if pinned is None else pinned
        self.tokens, self.editable, self.held, self._extents = ids, may, held, extents
        self.noise, self.pinned = noisy, kept
        return found

    def release(self, starts: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " B"]) -> None:
        """Make the extents of some canvases free."""
        self._extents.give_all(zip(starts.tolist(), lengths.tolist(), strict=True))


def places_of(
    starts: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " T"]:
    """The positions of some extents, one after the other."""
    ends = lengths.cumsum()
    shift = np.repeat(starts - (ends - lengths), lengths)
    return shift + np.arange(len(shift))
