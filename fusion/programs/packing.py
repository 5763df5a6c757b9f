"""Kernels of the sampler over positions and rows: random numbers, marked positions, places in a
group. All that they give is exact.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def _unit(high, low):
    """53 of 64 random bits as a float64 in [0, 1)."""
    return ((high.to(tl.int64) << 21) | (low.to(tl.int64) >> 11)).to(tl.float64) * 2.0**-53


@triton.jit
def uniforms(
    seed, step, position, out, count, ROLES: tl.constexpr, ROUNDS: tl.constexpr, SPAN: tl.constexpr
):  # fmt: skip
    """Two uniforms for each of ``count`` positions and a role, SPAN of them a program.

    The roles are the bytes of ROLES, one for each program along the second axis; ``out`` has two
    rows of each.
    """
    at = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    here = at < count
    key = tl.load(seed + at, mask=here, other=0).to(tl.uint64, bitcast=True)
    place = tl.load(position + at, mask=here, other=0)
    role = (ROLES >> (tl.program_id(1) * 8)) & 255
    a, b, c, d = tl.philox(
        key,
        (place & 0xFFFFFFFF).to(tl.uint32),
        (tl.load(step + at, mask=here, other=0) & 0xFFFFFFFF).to(tl.uint32),
        (tl.zeros([SPAN], tl.int32) + role).to(tl.uint32),
        (place >> 32).to(tl.uint32),
        ROUNDS,
    )
    out += tl.program_id(1).to(tl.int64) * 2 * count + at
    tl.store(out, _unit(a, b), mask=here)
    tl.store(out + count, _unit(c, d), mask=here)


@triton.jit
def marked(marks, found, count, room, SPAN: tl.constexpr, WALK: tl.constexpr):
    """The marked ones of ``count`` positions, in order, in ``room`` places; ``count`` in those that
    are left. A program has SPAN positions, and as many places; all marks are counted by each.
    """
    begin = tl.program_id(0) * SPAN
    before = tl.full([], 0, tl.int32)
    total = tl.full([], 0, tl.int32)
    for start in range(0, count, WALK):
        at = start + tl.arange(0, WALK)
        mark = tl.load(marks + at, mask=at < count, other=0).to(tl.int32)
        total += tl.sum(mark, 0)
        before += tl.sum(tl.where(at < begin, mark, 0), 0)
    at = begin + tl.arange(0, SPAN)
    mark = tl.load(marks + at, mask=at < count, other=0).to(tl.int32)
    place = before + tl.cumsum(mark, 0) - mark
    tl.store(found + place, at.to(tl.int64), mask=(mark != 0) & (place < room))
    rest = tl.zeros([SPAN], tl.int64) + count
    tl.store(found + at, rest, mask=(at >= total) & (at < room))


@triton.jit
def places(score, group, place, sizes, count, ROWS: tl.constexpr, OTHERS: tl.constexpr):
    """The place of each of ``count`` rows in its group: how many have a higher score, or the same
    and come before. What is not a number is highest. Adds the rows of each group to its size.

    A program has ROWS rows and compares them with OTHERS at a time.
    """
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = at < count
    mine = tl.load(score + at, mask=here, other=0.0)[:, None]
    of = tl.load(group + at, mask=here, other=-1)
    before = tl.zeros([ROWS], tl.int32)
    for start in range(0, count, OTHERS):
        other = start + tl.arange(0, OTHERS)
        its = tl.load(score + other, mask=other < count, other=0.0)[None, :]
        beside = tl.load(group + other, mask=other < count, other=-2)
        same = (its == mine) | ((its != its) & (mine != mine))
        higher = (its > mine) | ((its != its) & (mine == mine))
        ahead = higher | (same & (other[None, :] < at[:, None]))
        ahead = ahead & (beside[None, :] == of[:, None])
        before += tl.sum(ahead.to(tl.int32), 1)
    tl.store(place + at, before.to(tl.int64), mask=here)
    tl.atomic_add(sizes + of, tl.full([ROWS], 1, tl.int64), mask=here)
