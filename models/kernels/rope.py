"""Rotary embedding (arXiv:2104.09864) of queries and keys at once, where they lie in a product."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fusion.choice import ROWS, Draw, Pairs, agrees, launch, ordinary, power_of_two
from models.base import RMSNorm, rotate

WIDEST = 512
"""Width of a head."""
ENTRIES = 1024
"""Of each half of the heads that a program rotates, about."""

Norms = tuple[RMSNorm, RMSNorm]
"""Of the heads of queries, and of keys."""


def rotated(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys, normalised where there are norms, and rotated.

    Args:
        q, k: [T, H, d] and [T, H_kv, d], also parts of the rows of one product.
        cos, sin: [T, 1, r/2] in fp32; the first r dimensions of a head are rotated.
        norms: of heads.

    Returns:
        two tensors of the sizes and the type of ``q`` and ``k``.
    """
    eps = None if norms is None else norms[0].eps
    sizes = (q.shape[1], k.shape[1], q.shape[2], cos.shape[2], eps)
    if _suits(q, k, cos, sin, norms) and agrees("rope", q, sizes, partial(_compare, *sizes)):
        return _kernel(q, k, cos, sin, norms)
    return _plain(q, k, cos, sin, norms)


def _plain(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None
) -> tuple[Tensor, Tensor]:
    if norms is not None:
        q, k = norms[0](q), norms[1](k)
    return rotate(q, cos, sin), rotate(k, cos, sin)


def _suits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None) -> bool:
    size = q.shape[2]
    dense = all(x.stride(2) == 1 and x.stride(1) == size for x in (q, k))
    angles = all(x.dtype == torch.float32 and x.is_contiguous() for x in (cos, sin))
    weights = () if norms is None else tuple(norm.weight for norm in norms)
    alike = all(x.dtype == q.dtype for x in (k, *weights))
    same_eps = norms is None or norms[0].eps == norms[1].eps
    plain = ordinary(q, k, cos, sin, *weights)
    return size <= WIDEST and plain and dense and angles and alike and same_eps


def _kernel(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, norms: Norms | None
) -> tuple[Tensor, Tensor]:
    (count, q_heads, size), k_heads, half = q.shape, k.shape[1], cos.shape[2]
    q_out, k_out = q.new_empty(q.shape), k.new_empty(k.shape)
    weights = (q_out, k_out) if norms is None else (norms[0].weight, norms[1].weight)
    lanes, rest = power_of_two(half), power_of_two(max(1, size - 2 * half))
    some = min(power_of_two(q_heads), max(1, ENTRIES // lanes))
    parts = -(-q_heads // some) - (-k_heads // some)
    launch(
        "rope",
        (count, parts),
        q.device,
        q,
        k,
        cos,
        sin,
        q_out,
        k_out,
        *weights,
        0.0 if norms is None else norms[0].eps,
        q.stride(0),
        k.stride(0),
        Q_HEADS=q_heads,
        K_HEADS=k_heads,
        SIZE=size,
        HALF=half,
        SOME=some,
        LANES=lanes,
        REST=rest,
        NORM=norms is not None,
        num_warps=4,
    )
    return q_out, k_out


def _compare(
    q_heads: int, k_heads: int, size: int, half: int, eps: float | None, draw: Draw
) -> Pairs:
    joined = draw(ROWS, q_heads + 2 * k_heads, size)
    q, k, _ = joined.split((q_heads, k_heads, k_heads), 1)
    angle = draw(ROWS, 1, half, dtype=torch.float32)
    norms = None
    if eps is not None:
        norms = (RMSNorm(size, eps), RMSNorm(size, eps))
        for norm in norms:
            norm.weight = nn.Parameter(draw(size), requires_grad=False)
    found = _kernel(q, k, angle.cos(), angle.sin(), norms)
    return zip(found, _plain(q, k, angle.cos(), angle.sin(), norms), strict=True)
