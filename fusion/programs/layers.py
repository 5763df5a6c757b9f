"""Kernels of a layer: a program computes a row, or some heads of one, in fp32, and rounds where
PyTorch's operations do.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def add_norm(
    h, x, weight, out, eps, SIZE: tl.constexpr, LANES: tl.constexpr, ADD: tl.constexpr
):  # fmt: skip
    """H += x if ADD; out = h / rms(h) * weight, a row of SIZE entries a program."""
    row = tl.program_id(0).to(tl.int64) * SIZE
    at = tl.arange(0, LANES)
    here = at < SIZE
    own = tl.load(h + row + at, mask=here, other=0.0)
    if ADD:
        more = tl.load(x + row + at, mask=here, other=0.0)
        own = (own.to(tl.float32) + more.to(tl.float32)).to(own.dtype)
        tl.store(h + row + at, own, mask=here)
    wide = own.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    normed = (wide * scale).to(own.dtype).to(tl.float32)
    factor = tl.load(weight + at, mask=here, other=0.0).to(tl.float32)
    tl.store(out + row + at, (normed * factor).to(own.dtype), mask=here)


@triton.jit
def add_modulate(
    h, x, gate, gain, shift, out, gate_stride, gain_stride, shift_stride, eps,
    SIZE: tl.constexpr, LANES: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """H += gate * x if ADD; out = layer_norm(h) * gain + shift, a row of SIZE entries a program."""
    t = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, LANES)
    here = at < SIZE
    own = tl.load(h + t * SIZE + at, mask=here, other=0.0)
    if ADD:
        more = tl.load(x + t * SIZE + at, mask=here, other=0.0).to(tl.float32)
        own += tl.load(gate + t * gate_stride + at, mask=here, other=0.0) * more
        tl.store(h + t * SIZE + at, own, mask=here)
    centred = tl.where(here, own - tl.sum(own, 0) / SIZE, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / SIZE + eps)
    factor = tl.load(gain + t * gain_stride + at, mask=here, other=0.0)
    term = tl.load(shift + t * shift_stride + at, mask=here, other=0.0)
    y = centred * scale * factor + term
    tl.store(out + t * SIZE + at, y.to(out.dtype.element_ty), mask=here)


@triton.jit
def _normed(x, scale, weight, at, here):
    """X times a scale, rounded, times the weights at some places, rounded."""
    factor = tl.load(weight + at, mask=here, other=0.0).to(tl.float32)
    return ((x * scale).to(weight.dtype.element_ty).to(tl.float32) * factor).to(
        weight.dtype.element_ty
    ).to(tl.float32)  # fmt: skip


@triton.jit
def _turned(
    source, target, weight, cos, sin, eps, first,
    HEADS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    SOME: tl.constexpr, LANES: tl.constexpr, REST: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """SOME heads of a row from ``first`` on, of HEADS: normalised if NORM, and rotated."""
    head = first + tl.arange(0, SOME)[:, None]
    at = tl.arange(0, LANES)[None, :]
    here = (head < HEADS) & (at < HALF)
    a = tl.load(source + head * SIZE + at, mask=here, other=0.0).to(tl.float32)
    b = tl.load(source + head * SIZE + HALF + at, mask=here, other=0.0).to(tl.float32)
    rest_at = 2 * HALF + tl.arange(0, REST)[None, :]
    of_rest = (head < HEADS) & (rest_at < SIZE)
    rest = a  # not used, unless there is a part that is not rotated
    if 2 * HALF < SIZE:
        rest = tl.load(source + head * SIZE + rest_at, mask=of_rest, other=0.0).to(tl.float32)
    if NORM:
        total = tl.sum(a * a + b * b, 1)
        if 2 * HALF < SIZE:
            total += tl.sum(rest * rest, 1)
        scale = tl.rsqrt(total / SIZE + eps)[:, None]
        a = _normed(a, scale, weight, at, at < HALF)
        b = _normed(b, scale, weight, HALF + at, at < HALF)
        if 2 * HALF < SIZE:
            rest = _normed(rest, scale, weight, rest_at, rest_at < SIZE)
    c = tl.load(cos + at, mask=at < HALF, other=0.0)
    s = tl.load(sin + at, mask=at < HALF, other=0.0)
    kind = target.dtype.element_ty
    tl.store(target + head * SIZE + at, (a * c - b * s).to(kind), mask=here)
    tl.store(target + head * SIZE + HALF + at, (b * c + a * s).to(kind), mask=here)
    if 2 * HALF < SIZE:
        tl.store(target + head * SIZE + rest_at, rest.to(kind), mask=of_rest)


@triton.jit
def rope(
    q, k, cos, sin, q_out, k_out, q_weight, k_weight, eps, q_stride, k_stride,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    SOME: tl.constexpr, LANES: tl.constexpr, REST: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Rotate the heads of queries and keys, SOME of a row a program: of queries in the first
    programs of a row, of keys in the others.
    """
    t = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    of_queries = tl.cdiv(Q_HEADS, SOME)
    if part < of_queries:
        _turned(
            q + t * q_stride, q_out + t * Q_HEADS * SIZE, q_weight, cos + t * HALF,
            sin + t * HALF, eps, part * SOME, Q_HEADS, SIZE, HALF, SOME, LANES, REST, NORM,
        )  # fmt: skip
    else:
        _turned(
            k + t * k_stride, k_out + t * K_HEADS * SIZE, k_weight, cos + t * HALF,
            sin + t * HALF, eps, (part - of_queries) * SOME, K_HEADS, SIZE, HALF, SOME, LANES,
            REST, NORM,
        )  # fmt: skip


@triton.jit
def swiglu(
    gate, up, out, gate_stride, up_stride, SIZE: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Out = silu(gate) * up, LANES entries of a row a program."""
    t = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * LANES + tl.arange(0, LANES)
    here = at < SIZE
    opened = tl.load(gate + t * gate_stride + at, mask=here, other=0.0)
    factor = tl.load(up + t * up_stride + at, mask=here, other=0.0).to(tl.float32)
    wide = opened.to(tl.float32)
    wide = (wide / (1.0 + tl.exp(-wide))).to(opened.dtype).to(tl.float32)
    tl.store(out + t * SIZE + at, (wide * factor).to(opened.dtype), mask=here)
