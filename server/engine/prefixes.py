"""Prompts that begin alike: the keys and values of their first blocks are computed once.

Only for networks with block-causal attention, where keys and values of a block depend on nothing
after it. They are copied into the extent of each request, which costs little beside computing them,
so extents stay contiguous and nothing is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from jaxtyping import Int

from server.engine.slots import Slots

Keys = list[bytes]
"""One for each leading block of a prompt: a digest of all ids up to its end."""


class Prefixes:
    """Which slots hold the keys and values of which leading blocks of prompts."""

    def __init__(self, block_length: int, slots: Slots) -> None:
        """None yet. ``block_length``: positions of a block."""
        self._length, self._slots = block_length, slots
        self._places: dict[bytes, tuple[int, int]] = {}  # key -> first slot of its block and extent
        self._keys: dict[int, Keys] = {}  # start of an extent -> keys that it holds
        slots.on_evicted = self._forget

    def keys_of(self, given: Sequence[int]) -> Keys:
        """The keys of a prompt's ids, those before the first position to write."""
        digest, found = sha256(), []
        ids = np.asarray(given, dtype=np.int64)
        for end in range(self._length, len(given) + 1, self._length):
            digest.update(ids[end - self._length : end].tobytes())
            found.append(digest.copy().digest())
        return found

    def known(self, keys: Keys) -> int:
        """How many leading blocks have keys and values."""
        return next((i for i, key in enumerate(keys) if key not in self._places), len(keys))

    def slots_of(self, keys: Keys) -> Int[np.ndarray, " N"]:
        """The slots of all positions of the leading blocks that are known."""
        found = [self._places[key] for key in keys[: self.known(keys)]]
        for extent in {extent for _, extent in found}:
            self._slots.touch(extent)
        starts = np.array([start for start, _ in found], dtype=np.int64)
        return (starts[:, None] + np.arange(self._length)).reshape(-1)

    def add(self, keys: Keys, start: int) -> None:
        """The extent that begins at a slot holds keys and values of these blocks."""
        new = {
            key: (start + i * self._length, start)
            for i, key in enumerate(keys)
            if key not in self._places
        }
        if new and self._slots.keep(start, len(keys) * self._length):
            self._places |= new
            self._keys[start] = list(new)

    def _forget(self, start: int) -> None:
        """An extent was evicted."""
        for key in self._keys.pop(start, ()):
            del self._places[key]


def shared(one: Keys, other: Keys) -> int:
    """Leading blocks that two prompts have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
