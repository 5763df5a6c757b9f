"""Keys and values of positions that a pass of the network does not run again.

A canvas has one extent of slots, which its positions keep from its first step to its end. A pass
runs some positions of it; each layer writes their keys and values into their slots and attends over
all slots of the canvas that are in use. What the other slots hold was computed in earlier passes.
Whether that is exact is the caller's matter (``sampler.cache``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import Packing, bucket_length
from models.padded_attention import attend

LEAST_QUERIES = 8
"""Queries of a sequence are padded to this number at least: CPU kernels round products of fewer in
another way, so a position would get other bits with few neighbours than with many."""


class CacheShape(NamedTuple):
    """Sizes of a network's keys and values: layers, heads of keys, width of a head.

    ``more`` counts the numbers that are kept of a position beside these, as of layers of other
    sizes.
    """

    layers: int
    heads: int
    width: int
    more: int = 0

    def bytes_of(self, slots: int, itemsize: int) -> int:
        """Memory of some slots, in bytes."""
        return (2 * self.layers * self.heads * self.width + self.more) * slots * itemsize


class Segments(NamedTuple):
    """The part of a pass that each of B sequences has; all on the host.

    Attributes:
        queries: packed positions that are run, of each sequence, [B].
        positions: of each packed position on its canvas, [T].
        starts: first slot of each canvas, -1 for a sequence that is not cached and run whole, [B].
        used: leading slots of each canvas that hold keys and values after the pass, [B].
        begins: of networks that encode what is final and denoise the rest: the first position that
            is denoised, [B]; None for others.
        phases: likewise, steps in which these positions have been denoised before, [B].
    """

    queries: np.ndarray
    positions: np.ndarray
    starts: np.ndarray
    used: np.ndarray
    begins: np.ndarray | None = None
    phases: np.ndarray | None = None

    @property
    def sequence(self) -> np.ndarray:
        """The sequence of each packed position, [T]."""
        return np.repeat(np.arange(len(self.queries)), self.queries)


class Sight(NamedTuple):
    """The keys that each query of a pass sees: an interval of positions of its canvas; host.

    Attributes:
        low, high: the first and the last, [T]; past the canvas for no bound.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def blocks(cls, positions: np.ndarray, length: int) -> Sight:
        """Its own block and all earlier ones."""
        return cls(np.zeros_like(positions), (positions // length + 1) * length - 1)


class Slab:
    """Keys and values of a network by layer and slot, each [layers, slots, H_kv, d]."""

    def __init__(
        self, shape: CacheShape, slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Room for ``slots`` positions; on a CPU memory is taken when they are first written."""
        size = (shape.layers, slots, shape.heads, shape.width)
        self.keys, self.values = (_zeros(size, dtype, device) for _ in range(2))

    def copy(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy keys and values between slots, both [N]."""
        device = self.keys.device
        at, to = (torch.from_numpy(slots).to(device) for slots in (sources, targets))
        self.keys[:, to] = self.keys[:, at]
        self.values[:, to] = self.values[:, at]

    @property
    def slots(self) -> int:
        """How many there are."""
        return self.keys.shape[1]


def _zeros(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU in pages that the system gives when they are written, which ``torch.zeros``
    does at once.

    Raises:
        MemoryError: there are no such pages.
    """
    if device.type != "cpu" or 0 in size:  # no layers of a kind
        return torch.zeros(size, dtype=dtype, device=device)
    if (count := math.prod(size) * dtype.itemsize) > sys.maxsize:  # numpy's error is another
        raise MemoryError
    pages = np.zeros(count, np.uint8)
    return torch.from_numpy(pages).view(dtype).view(*size)


@dataclass(frozen=True)
class _Group:
    """Sequences whose queries, and whose keys, are padded to one length each.

    Attributes:
        fill: packed positions of their queries, [count * queries], padded by the last of each
            sequence; None where all lie so already.
        slots: the slots that are attended over, [count * keys]; None for sequences that are not
            cached, whose keys are those of the pass.
        mask: [count, 1, 1, keys], or [count, 1, queries, keys] where queries see different keys.
        scale: of the products of queries and keys; None for one over the root of the width.
    """

    fill: Tensor | None
    slots: Tensor | None
    mask: Tensor
    scale: float | None

    def padded(self, x: Tensor) -> Tensor:
        """Packed [T, H, d] -> [count * queries, H, d]."""
        return x if self.fill is None else x.index_select(0, self.fill)


class SlabAttention:
    """Attention of one pass over slots of a slab; see ``models.attention.Attention``. It is called
    once a layer, first layer first.
    """

    def __init__(
        self,
        slab: Slab,
        segments: Segments,
        rows: int,
        sight: Sight | None = None,
        scale: float | None = None,
    ) -> None:
        """Lay out a pass.

        Args:
            slab: keys and values.
            segments: of its sequences.
            rows: length of the packed tensors; those past the last sequence belong to nobody.
            sight: the keys that each query sees; None for all of its canvas that are in use.
            scale: see ``_Group``.
        """
        self._slab, self._layer = slab, 0
        device = slab.keys.device
        queries, positions, starts, used = segments[:4]
        total, sequence = len(positions), segments.sequence
        first = queries.cumsum() - queries
        within = np.arange(total) - first[sequence]
        self.positions = torch.from_numpy(np.pad(positions, (0, rows - total))).to(device)
        cached = starts >= 0
        written = cached[sequence].nonzero()[0]
        self._whole = len(written) == rows
        self._written = torch.from_numpy(written).to(device)
        slots = starts[sequence[written]] + positions[written]
        self._slots = torch.from_numpy(slots).to(device)
        lengths = np.where(cached, used, queries)
        low, high, origins = _bounds(sight, lengths, sequence, first)
        lengths = lengths - origins
        assert not origins[~cached].any()  # the keys of these are those of the pass
        keys = bucket_length(torch.from_numpy(lengths)).numpy()
        padded = np.where(cached & (queries < used), _query_length(queries), keys)
        as_first = (low == low[first][sequence]) & (high == high[first][sequence])
        alike = np.minimum.reduceat(as_first, first)
        kinds, kind = np.unique(
            np.stack((padded, keys, cached, alike), axis=1), axis=0, return_inverse=True
        )
        self._groups: list[_Group] = []
        order, before = np.zeros(rows, dtype=np.int64), 0
        for number, (wide, long, from_slab, same) in enumerate(kinds.tolist()):
            mine = kind.reshape(-1) == number
            some = mine[sequence].nonzero()[0]
            places = (mine.cumsum() - 1)[sequence[some]] * wide + within[some]
            order[some] = before + places
            before += int(mine.sum()) * wide
            last = np.maximum(queries[mine, None] - 1, 0)
            own = np.minimum(np.arange(wide), last) + first[mine, None]
            fits = own.size == len(some) == rows
            at = None
            if from_slab:
                place = np.minimum(np.arange(long), lengths[mine, None] - 1)
                at = (starts + origins)[mine, None] + place
                at = torch.from_numpy(at.reshape(-1)).to(device)
            bounds = np.stack((low[first][mine], high[first][mine]))
            if not same:
                bounds = np.zeros((2, mine.sum() * wide), dtype=np.int64)  # gaps see the first key
                bounds[:, places] = low[some], high[some]
            self._groups.append(
                _Group(
                    None if fits else torch.from_numpy(own.reshape(-1)).to(device),
                    at,
                    _mask(bounds, int(mine.sum()), long, device),
                    scale,
                )
            )
        self._order = torch.from_numpy(order).to(device)
        """Where each packed position is in the results of all groups."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        keys, values = self._slab.keys[self._layer], self._slab.values[self._layer]
        self._layer += 1
        if len(self._slots):
            new = (k, v)
            if not self._whole:
                new = tuple(x.index_select(0, self._written) for x in new)
            keys.index_copy_(0, self._slots, new[0])
            values.index_copy_(0, self._slots, new[1])
        mixed = [self._of_group(g, q, k, v, keys, values) for g in self._groups]
        if self._groups[0].fill is None:
            return mixed[0]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).index_select(0, self._order)

    def _of_group(
        self, group: _Group, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        q = group.padded(q)
        if group.slots is None:
            k, v = group.padded(k), group.padded(v)
        else:
            k, v = (x.index_select(0, group.slots) for x in (keys, values))
        return attend(q, k, v, group.mask, group.scale)


class FixedSlabAttention:
    """``SlabAttention`` in fixed shapes (``models.attention.Packing``). Queries that see different
    keys are sequences of their own. The last slot of the slab is nobody's.
    """

    def __init__(self, slab: Slab, packing: Packing, kernel: Callable[..., Any] | None) -> None:
        """Lay out a pass.

        Args:
            slab: keys and values.
            packing: of its sequences, with slots.
            kernel: called like PyTorch's ``varlen_attn``; SDPA with a mask where None.
        """
        self._slab, self._packing, self._kernel, self._layer = slab, packing, kernel, 0
        self.positions = packing.positions
        self._mask: Tensor | None = None
        assert packing.slots is not None and packing.starts is not None
        assert packing.used is not None
        self._slots = torch.where(packing.slots < 0, slab.slots - 1, packing.slots)
        self._starts, self._used = packing.starts, packing.used
        if kernel is None:
            used = F.pad(self._used, (0, 1), value=1)[packing.sequence, None]
            begin = self._starts[packing.sequence, None]
            slot = torch.arange(slab.slots, device=slab.keys.device)
            self._mask = ((slot >= begin) & (slot < begin + used))[None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        keys, values = self._slab.keys[self._layer], self._slab.values[self._layer]
        self._layer += 1
        keys.index_copy_(0, self._slots, k)
        values.index_copy_(0, self._slots, v)
        if self._kernel is None:
            q, keys, values = (x.transpose(0, 1)[None] for x in (q, keys, values))
            shared = q.shape[1] != keys.shape[1]
            mixed = F.scaled_dot_product_attention(
                q, keys, values, attn_mask=self._mask, enable_gqa=shared
            )
            return mixed[0].transpose(0, 1)
        return self._kernel(
            *(q, keys, values, self._packing.offsets, self._starts),
            *(self._packing.longest, self._packing.most_used),
            enable_gqa=q.shape[1] != keys.shape[1],
            seqused_k=self._used,
        )


def _bounds(
    sight: Sight | None, lengths: np.ndarray, sequence: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and the last key that each query sees, both [T], counted from the first that any
    query of its sequence sees, and that one's position [B].
    """
    last = (lengths - 1)[sequence]
    if sight is None:
        return np.zeros_like(last), last, np.zeros_like(lengths)
    low = np.maximum(sight.low, 0)
    origins = np.minimum.reduceat(low, first)
    shift = origins[sequence]
    return low - shift, np.minimum(sight.high, last) - shift, origins


def _mask(bounds: np.ndarray, count: int, long: int, device: torch.device) -> Tensor:
    """The keys between bounds [2, count * N], true: [count, 1, N, long]."""
    low, high = torch.from_numpy(bounds).to(device).view(2, count, 1, -1, 1)
    place = torch.arange(long, device=device)
    return (place >= low) & (place <= high)


def _query_length(queries: np.ndarray) -> np.ndarray:
    """The padded number of queries of each sequence: powers of two from 8 to 64, then as keys."""
    few = np.exp2(np.ceil(np.log2(np.maximum(queries, LEAST_QUERIES)))).astype(np.int64)
    return np.where(few <= 64, few, bucket_length(torch.from_numpy(queries)).numpy())
