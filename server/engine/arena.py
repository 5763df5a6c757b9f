"""The positions of an engine's canvases, on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

Extents = list[tuple[int, int]]
"""Where free extents begin and end; ascending, with canvases between them."""


class Arena:
    """One line of positions. A canvas lies in one extent of it, from its admission to its release.

    Attributes:
        tokens: ids, as the last successful step left them.
        editable: where a sampler may write.
    """

    def __init__(self, size: int = 1024) -> None:
        """``size``: positions at first; the line grows as needed."""
        self.tokens: Int[np.ndarray, " N"] = np.zeros(size, dtype=np.int64)
        self.editable: Bool[np.ndarray, " N"] = np.zeros(size, dtype=bool)
        self._free: Extents = [(0, size)]

    def admit(
        self,
        lengths: Int[np.ndarray, " B"],
        tokens: Int[np.ndarray, " T"],
        editable: Bool[np.ndarray, " T"],
    ) -> Int[np.ndarray, " B"]:
        """Give each canvas the first free extent that is long enough; where there is none, the line
        doubles. All are admitted, or none.

        Args:
            lengths: positions of each.
            tokens, editable: of all their positions, one canvas after the other.

        Returns:
            where each begins.
        """
        free, size, starts = list(self._free), len(self.tokens), []
        for length in lengths.tolist():
            while (fit := _first_fit(free, length)) is None:
                free = _merged([*free, (size, 2 * size)])
                size *= 2
            start, end = free[fit]
            free[fit : fit + 1] = [(start + length, end)] if start + length < end else []
            starts.append(start)
        found = np.array(starts, dtype=np.int64)
        places, more = places_of(found, lengths), size - len(self.tokens)
        ids = np.concatenate((self.tokens, np.zeros(more, np.int64))) if more else self.tokens
        may = np.concatenate((self.editable, np.zeros(more, bool))) if more else self.editable
        ids[places], may[places] = tokens, editable
        self.tokens, self.editable, self._free = ids, may, free
        return found

    def release(self, starts: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " B"]) -> None:
        """Make the extents of some canvases free."""
        left = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        self._free = _merged([*self._free, *left])


def places_of(
    starts: Int[np.ndarray, " B"], lengths: Int[np.ndarray, " B"]
) -> Int[np.ndarray, " T"]:
    """The positions of some extents, one after the other."""
    ends = lengths.cumsum()
    shift = np.repeat(starts - (ends - lengths), lengths)
    return shift + np.arange(len(shift))


def _first_fit(free: Extents, length: int) -> int | None:
    """Index of the first extent that is long enough."""
    return next((i for i, (start, end) in enumerate(free) if end - start >= length), None)


def _merged(extents: Extents) -> Extents:
    """The same positions in as few extents as possible, in order."""
    found: Extents = []
    for start, end in sorted(extents):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif end > start:
            found.append((start, end))
    return found
