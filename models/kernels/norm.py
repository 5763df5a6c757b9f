"""A residual and the RMSNorm that follows it (arXiv:1910.07467) in one pass over the rows."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fusion.choice import ROWS, Draw, Pairs, agrees, launch, ordinary, power_of_two, warps
from models.base import RMSNorm

WIDEST = 1 << 14
"""Entries of a row that one program holds."""


def add_norm(h: Tensor, x: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """The sum of h and x, and the sum normalised.

    Args:
        h: residual stream, [T, D]; it may be written to, and is not to be used afterward.
        x: output of a part of a layer, [T, D], of the same type; None for nothing to add.
        norm: its statistics are in fp32.

    Returns:
        h + x and norm(h + x), both [T, D] of the type of h.
    """
    sizes = (h.shape[-1], x is not None, norm.eps)
    if _suits(h, x, norm.weight) and agrees("add_norm", h, sizes, partial(_compare, *sizes)):
        return _kernel(h, x, norm)
    return _plain(h, x, norm)


def _plain(h: Tensor, x: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    h = h if x is None else h + x
    return h, norm(h)


def _suits(h: Tensor, x: Tensor | None, weight: Tensor) -> bool:
    rows = (h, h if x is None else x)
    return (
        h.shape[-1] <= WIDEST
        and ordinary(*rows, weight)
        and all(each.dim() == 2 and each.is_contiguous() for each in rows)
        and all(each.dtype == h.dtype for each in (*rows, weight))
    )


def _kernel(h: Tensor, x: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    count, size = h.shape
    out, lanes = torch.empty_like(h), power_of_two(size)
    launch(
        "add_norm",
        (count,),
        h.device,
        h,
        h if x is None else x,
        norm.weight,
        out,
        norm.eps,
        SIZE=size,
        LANES=lanes,
        ADD=x is not None,
        num_warps=warps(lanes),
    )
    return h, out


def _compare(size: int, adds: bool, eps: float, draw: Draw) -> Pairs:
    norm = RMSNorm(size, eps)
    norm.weight = nn.Parameter(draw(size), requires_grad=False)
    h, x = draw(ROWS, size), draw(ROWS, size) if adds else None
    found = _kernel(h.clone(), x, norm)
    return zip(found, _plain(h, x, norm), strict=True)
