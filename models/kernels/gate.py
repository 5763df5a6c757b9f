"""SwiGLU (arXiv:2002.05202) of two products, or of two halves of one, in one pass."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from fusion.choice import ROWS, Draw, Pairs, agrees, launch, ordinary

LANES = 1024
"""Entries of a row that a program computes."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element; it has no gradient.

    Args:
        gate, up: [T, I], also parts of the rows of one product.

    Returns:
        [T, I] of their type; the rows lie close.
    """
    sizes = (gate.shape[-1],)
    if _suits(gate, up) and agrees("swiglu", gate, sizes, partial(_compare, *sizes)):
        return _kernel(gate, up)
    return _plain(gate, up)


def _plain(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)


def _suits(gate: Tensor, up: Tensor) -> bool:
    rows = all(x.dim() == 2 and x.stride(1) == 1 for x in (gate, up))
    return rows and gate.dtype == up.dtype and ordinary(gate, up)


def _kernel(gate: Tensor, up: Tensor) -> Tensor:
    count, size = gate.shape
    out = gate.new_empty(gate.shape)
    launch(
        "swiglu",
        (count, -(-size // LANES)),
        gate.device,
        gate,
        up,
        out,
        gate.stride(0),
        up.stride(0),
        SIZE=size,
        LANES=LANES,
        num_warps=4,
    )
    return out


def _compare(size: int, draw: Draw) -> Pairs:
    gate, up = draw(ROWS, 2 * size).split(size, -1)
    found = _kernel(gate, up)
    return [(found, _plain(gate, up))]
