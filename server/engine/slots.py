"""The slots of a cache of keys and values: given to requests, and kept after them while there is
room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from server.engine.extents import Extents


class Slots:
    """A line of slots. An extent belongs to one request; after it, its first slots may stay for
    others until the room is needed, those that were used longest ago first.

    Requests end on any thread; all else is called on the engine's.
    """

    def __init__(self, size: int) -> None:
        """``size`` slots, all free."""
        self._extents = Extents(size)
        self._given: dict[int, int] = {}  # start -> length, of requests
        self._stays: dict[int, int] = {}  # start -> first slots that stay after it
        self._left: OrderedDict[int, int] = OrderedDict()  # the same, after it; oldest first
        self._lock = threading.Lock()
        self.on_evicted: Callable[[int], None] = lambda start: None

    @property
    def used(self) -> int:
        """Slots that belong to requests."""
        with self._lock:
            return sum(self._given.values())

    def take(self, length: int) -> int | None:
        """The first slot of an extent of this length; None if there is none. What has been left is
        evicted as far as needed, and ``on_evicted`` is called with its first slot.
        """
        with self._lock:
            while (start := self._extents.take(length)) is None:
                if not self._left:
                    return None
                evicted, kept = self._left.popitem(last=False)
                self._extents.give(evicted, kept)
                self.on_evicted(evicted)
            self._given[start] = length
            return start

    def keep(self, start: int, count: int) -> bool:
        """Let the first ``count`` slots of a request's extent stay after it; returns whether the
        request is still there.
        """
        with self._lock:
            if start in self._given:
                self._stays[start] = count
            return start in self._given

    def touch(self, start: int) -> None:
        """An extent that was left is used again."""
        with self._lock:
            if start in self._left:
                self._left.move_to_end(start)

    def give(self, start: int) -> None:
        """A request ends."""
        with self._lock:
            length, stays = self._given.pop(start), self._stays.pop(start, 0)
            if stays:
                self._left[start] = stays
            self._extents.give(start + stays, length - stays)
