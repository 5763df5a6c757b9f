"""Bidirectional or block-causal attention inside each sequence of a packed batch.

Sequences of different lengths lie end to end in one [T, H, d] tensor; ``offsets`` says where each
starts. The layout is worked out once per forward pass and serves every layer. On CUDA in half
precision a variable-length FlashAttention kernel runs: that of the package flash-attn where it is
installed, PyTorch's own build of it elsewhere. SDPA runs everywhere else, and for blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.padded_attention import attend

SMALLEST_BUCKET = 64
WIDEST_FLASH_HEAD = 256  # and a multiple of 8


class Packing(NamedTuple):
    """Where B sequences lie in a pass whose shapes are fixed before: on the device, so that a
    recorded pass serves other sequences. Positions behind the last sequence are nobody's: what
    comes out there means nothing.

    Attributes:
        positions: of each packed position in its sequence, [T].
        sequence: which one that is, [T]; B for nobody's.
        offsets: where each begins and the last ends, [B + 1] in int32; sequences may be empty.
        longest: positions of one at most.
        slots: where the keys and values of each position are kept, [T]; -1 for nobody's. None where
            none are.
        starts, used: the slots that a sequence attends over: the first, [B + 1] in int32, the last
            entry for nobody's, and how many, [B] in int32.
        most_used: of ``used`` at most.
    """

    positions: Tensor
    sequence: Tensor
    offsets: Tensor
    longest: int
    slots: Tensor | None = None
    starts: Tensor | None = None
    used: Tensor | None = None
    most_used: int = 0


class Attention(Protocol):
    """The batch's layout, as a layer uses it."""

    positions: Tensor  # [T], 0.. within each sequence

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: q [T, H, d], k and v [T, H_kv, d] -> [T, H, d]; no position sees another
        sequence.
        """
        ...


@dataclass(frozen=True)
class _Bucket:
    """Sequences that are padded to one length by their own last tokens."""

    fill: Tensor  # packed positions, [count * length]
    mask: Tensor  # of keys, [count, 1, 1, length], or [count, 1, length, length] with blocks


class BucketedAttention:
    """SDPA over sequences padded to 64, 128, 192, 256, 384, 512, ... tokens, one call a length.

    A sequence's padded length depends on nothing but the sequence, so it meets the same arithmetic
    whoever shares its batch: outputs are the same bits alone and in company. The number of calls
    grows with the logarithm of the longest sequence, not with the number of sequences.
    """

    def __init__(
        self,
        offsets: Tensor,
        rows: int,
        block_length: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Lay out sequences b at offsets[b]:offsets[b + 1].

        Args:
            offsets: [B + 1]. On the host nothing here waits for the device.
            rows: length of the packed tensors; those past the last offset belong to nobody.
            block_length: a position sees its own block and all earlier ones; blocks are counted
                from the first position of the sequence. None: it sees the whole sequence.
            device: of the packed tensors; that of ``offsets`` if None.
        """
        device = offsets.device if device is None else device
        lengths = offsets.diff()
        total = int(offsets[-1])
        sequence = torch.repeat_interleave(lengths, output_size=total)
        within = torch.arange(total, device=offsets.device) - offsets[sequence]
        self.positions = _there(F.pad(within, (0, rows - total)), device)
        padded = bucket_length(lengths)
        self._buckets: list[_Bucket] = []
        places = torch.zeros(rows, dtype=torch.long, device=offsets.device)
        before = 0
        for length in padded.unique().tolist():
            mine = padded == length
            rank = mine.cumsum(0) - 1  # which row of the bucket a sequence is
            tokens = torch.nonzero(mine[sequence])[:, 0]
            places[tokens] = before + rank[sequence[tokens]] * length + within[tokens]
            place = torch.arange(length, device=offsets.device)
            keys = place < lengths[mine, None]
            last = (offsets[1:][mine, None] - 1).clamp(min=0)
            fill = torch.minimum(offsets[:-1][mine, None] + place, last).flatten()
            before += len(fill)
            mask = keys[:, None, None, :]
            if block_length is not None:
                block = place // block_length
                mask = mask & (block[:, None] >= block)
            self._buckets.append(_Bucket(_there(fill, device), _there(mask, device)))
        self._places = _there(places, device)
        """Where each packed position is in the results of all buckets."""
        self._as_they_lie = before == total == rows

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        if self._as_they_lie and len(self._buckets) == 1:
            return attend(q, k, v, self._buckets[0].mask)
        # rows are selected rather than written: several times as fast as index_put on a CPU
        mixed = []
        for bucket in self._buckets:
            a, b, c = (x.index_select(0, bucket.fill) for x in (q, k, v))
            mixed.append(attend(a, b, c, bucket.mask))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).index_select(0, self._places)


class PackedAttention:
    """Attention by a kernel that takes sequences end to end as they lie (flash-attn's
    ``flash_attn_varlen_func``, or one that is called alike).
    """

    def __init__(
        self,
        offsets: Tensor,
        rows: int,
        kernel: Callable[..., Any],
        device: torch.device | None = None,
    ) -> None:
        """See ``BucketedAttention``."""
        device = offsets.device if device is None else device
        lengths = offsets.diff()
        self._kernel, self._offsets = kernel, _there(offsets.int(), device)
        self._total, self._longest = torch.stack((offsets[-1], lengths.max())).tolist()
        sequence = torch.repeat_interleave(lengths, output_size=self._total)
        within = torch.arange(self._total, device=offsets.device) - offsets[sequence]
        self._rest = rows - self._total
        self.positions = _there(F.pad(within, (0, self._rest)), device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        mixed = self._kernel(
            *(x[: self._total] for x in (q, k, v)),
            cu_seqlens_q=self._offsets,
            cu_seqlens_k=self._offsets,
            max_seqlen_q=self._longest,
            max_seqlen_k=self._longest,
            causal=False,
        )
        return F.pad(mixed, (0, 0, 0, 0, 0, self._rest)) if self._rest else mixed


class FixedPackedAttention:
    """``PackedAttention`` in fixed shapes."""

    def __init__(self, packing: Packing, kernel: Callable[..., Any]) -> None:
        """``kernel``: see ``PackedAttention``."""
        self.positions = packing.positions
        self._packing, self._kernel = packing, kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        return self._kernel(
            *(q, k, v),
            cu_seqlens_q=self._packing.offsets,
            cu_seqlens_k=self._packing.offsets,
            max_seqlen_q=self._packing.longest,
            max_seqlen_k=self._packing.longest,
            causal=False,
        )


class FixedMaskedAttention:
    """SDPA over all packed positions at once, each of which sees its own sequence; for few of them,
    where no kernel takes sequences end to end.
    """

    def __init__(self, packing: Packing, block_length: int | None = None) -> None:
        """``block_length``: see ``BucketedAttention``."""
        self.positions, of = packing.positions, packing.sequence
        mask = of[:, None] == of
        if block_length is not None:
            block = packing.positions // block_length
            mask = mask & (block[:, None] >= block)
        self._mask = mask[None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        if shared := q.shape[0] // k.shape[0] - 1:
            k, v = (x.repeat_interleave(shared + 1, 0) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask).transpose(0, 1)


@cache
def kernel_over_slots() -> Callable[..., Any] | None:
    """PyTorch's ``varlen_attn``, if it can attend over a part of the keys of each sequence."""
    from torch.nn.attention.varlen import varlen_attn  # takes a while, and no CPU needs it

    return varlen_attn if "seqused_k" in signature(varlen_attn).parameters else None


def fixed_attention(
    packing: Packing, dtype: torch.dtype, head_dim: int, block_length: int | None = None
) -> Attention:
    """As ``attention_over``, in fixed shapes."""
    if takes_packed(packing.offsets.device, dtype, head_dim, block_length):
        return FixedPackedAttention(packing, flash_kernel())
    return FixedMaskedAttention(packing, block_length)


def _there(layout: Tensor, device: torch.device) -> Tensor:
    """A tensor of a layout on the device of the packed tensors, without waiting for the copy."""
    if layout.device == device:
        return layout
    if device.type == "cuda":
        layout = layout.pin_memory()
    return layout.to(device, non_blocking=True)


@cache
def flash_kernel() -> Callable[..., Any]:
    """A variable-length FlashAttention kernel, called like ``flash_attn_varlen_func``."""
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _torch_flash
    return flash_attn_varlen_func


def _torch_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
) -> Any:
    """PyTorch's build of the kernel, under the names of the package's."""
    from torch.nn.attention.varlen import varlen_attn  # takes a while, and no CPU needs it

    assert not causal
    if shared := q.shape[1] // k.shape[1] - 1:  # not every version groups heads itself
        k, v = (x.repeat_interleave(shared + 1, 1) for x in (k, v))
    return varlen_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)


def attention_over(
    offsets: Tensor,
    rows: int,
    dtype: torch.dtype,
    head_dim: int,
    block_length: int | None = None,
    device: torch.device | None = None,
) -> Attention:
    """The fastest attention that there is for heads of ``dtype`` on the device; see
    ``BucketedAttention``.
    """
    device = offsets.device if device is None else device
    if takes_packed(device, dtype, head_dim, block_length):
        return PackedAttention(offsets, rows, flash_kernel(), device)
    return BucketedAttention(offsets, rows, block_length, device)


def takes_packed(
    device: torch.device, dtype: torch.dtype, head_dim: int, block_length: int | None
) -> bool:
    """Whether heads are attended over by a variable-length FlashAttention kernel."""
    fits = head_dim % 8 == 0 and head_dim <= WIDEST_FLASH_HEAD and block_length is None
    return device.type == "cuda" and dtype != torch.float32 and fits


def kernel_name(
    device: torch.device, dtype: torch.dtype, head_dim: int, block_length: int | None
) -> str:
    """The kernel that ``attention_over`` takes, for messages."""
    if takes_packed(device, dtype, head_dim, block_length):
        return "PyTorch's FlashAttention" if flash_kernel() is _torch_flash else "flash-attn"
    return "padded SDPA"


def bucket_length(lengths: Tensor) -> Tensor:
    """The padded length of each sequence: 2^n or 3 * 2^(n-1), at least 64."""
    power = torch.exp2(torch.ceil(torch.log2(lengths.clamp(min=SMALLEST_BUCKET).double())))
    power = power.long()
    between = power // 4 * 3
    return torch.where((between >= lengths) & (power > 2 * SMALLEST_BUCKET), between, power)
