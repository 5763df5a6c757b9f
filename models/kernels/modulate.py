"""A gated residual and the modulated LayerNorm that follows it (adaLN, arXiv:2212.09748), in one
pass over the rows.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.choice import ROWS, Draw, Pairs, agrees, launch, ordinary, power_of_two, warps

EPS = 1e-5
WIDEST = 1 << 14
"""Entries of a row that one program holds."""


def modulated(h: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """LN(h) * gain + shift, h [T, D]; gain and shift [D], or [T, D] where labels differ."""
    if gain.dim() == 1:
        return F.layer_norm(h, h.shape[-1:], gain, shift, EPS)
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=EPS), gain)


def add_modulate(
    h: Tensor,
    pending: tuple[Tensor, Tensor] | None,
    gain: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The sum of h and a gated output, and the sum normalised and modulated.

    Args:
        h: residual stream, [T, D] in fp32; it may be written to, and is not to be used afterward.
        pending: output of a part of a block [T, D] and its gate; None for nothing to add.
        gain, shift: of the norm; they and the gate are [D] in fp32, or [T, D] where labels differ.
        dtype: of the result.

    Returns:
        h + gate * output in fp32, and LN of it * gain + shift in ``dtype``, both [T, D].
    """
    kind = None if pending is None else pending[0].dtype
    sizes = (h.shape[-1], kind, gain.dim(), dtype)
    if _suits(h, pending, gain, shift) and agrees(
        "add_modulate", h, sizes, partial(_compare, *sizes)
    ):
        return _kernel(h, pending, gain, shift, dtype)
    return _plain(h, pending, gain, shift, dtype)


def _plain(
    h: Tensor,
    pending: tuple[Tensor, Tensor] | None,
    gain: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    if pending is not None:
        h = torch.addcmul(h, pending[1], pending[0].to(h.dtype))
    return h, modulated(h, gain, shift).to(dtype)


def _suits(h: Tensor, pending: tuple[Tensor, Tensor] | None, gain: Tensor, shift: Tensor) -> bool:
    x, gate = (h, gain) if pending is None else pending
    wide = all(each.dtype == torch.float32 for each in (h, gate, gain, shift))
    dense = all(each.dim() == 2 and each.is_contiguous() for each in (h, x))
    vectors = all(each.stride(-1) == 1 for each in (gate, gain, shift))
    plain = ordinary(h, x, gate, gain, shift)
    return h.shape[-1] <= WIDEST and plain and wide and dense and vectors


def _kernel(
    h: Tensor,
    pending: tuple[Tensor, Tensor] | None,
    gain: Tensor,
    shift: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    (count, size), (x, gate) = h.shape, (h, gain) if pending is None else pending
    out, lanes = h.new_empty(h.shape, dtype=dtype), power_of_two(size)
    strides = (each.stride(0) if each.dim() == 2 else 0 for each in (gate, gain, shift))
    launch(
        "add_modulate",
        (count,),
        h.device,
        h,
        x,
        gate,
        gain,
        shift,
        out,
        *strides,
        EPS,
        SIZE=size,
        LANES=lanes,
        ADD=pending is not None,
        num_warps=warps(lanes),
    )
    return h, out


def _compare(
    size: int, kind: torch.dtype | None, dims: int, dtype: torch.dtype, draw: Draw
) -> Pairs:
    vectors = draw(ROWS, 3, size, dtype=torch.float32)
    gate, gain, shift = (vectors[0] if dims == 1 else vectors).unbind(-2)
    h = draw(ROWS, size, dtype=torch.float32)
    pending = None if kind is None else (draw(ROWS, size, dtype=kind), gate)
    found = _kernel(h.clone(), pending, gain, shift, dtype)
    return zip(found, _plain(h, pending, gain, shift, dtype), strict=True)
