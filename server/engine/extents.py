"""Contiguous ranges of a line of positions."""

from __future__ import annotations

from collections.abc import Iterable


class Extents:
    """The free ranges of a line. A range is given out whole, and comes back whole."""

    def __init__(self, size: int = 0) -> None:
        """A line of ``size`` positions, all free."""
        self.size = size
        self._free: list[tuple[int, int]] = []  # where each begins and ends; ascending
        self.give(0, size)

    def copy(self) -> Extents:
        """The same line, to be changed on its own."""
        found = Extents()
        found.size, found._free = self.size, list(self._free)
        return found

    @property
    def used(self) -> int:
        """Positions that are given out."""
        return self.size - sum(end - start for start, end in self._free)

    def take(self, length: int) -> int | None:
        """The start of the first free range of this length, now taken; None if there is none."""
        for i, (start, end) in enumerate(self._free):
            if end - start >= length:
                self._free[i : i + 1] = [(start + length, end)] if start + length < end else []
                return start
        return None

    def give(self, start: int, length: int) -> None:
        """Make a range free."""
        self.give_all([(start, length)])

    def give_all(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make ranges free, each given as (start, length)."""
        found: list[tuple[int, int]] = []
        for start, end in sorted([*self._free, *((s, s + n) for s, n in ranges)]):
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            elif end > start:
                found.append((start, end))
        self._free = found

    def grow(self, more: int) -> None:
        """Add free positions at the end of the line."""
        self.give(self.size, more)
        self.size += more
