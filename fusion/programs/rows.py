"""A kernel that reads rows of logits: two walks over a row, the second one from the cache of the
device, and a third over the tile that a token is drawn from.

Differences to the highest logit and exponentials are in fp32, sums of blocks too; whatever goes
across blocks is in float64.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

NOWHERE = tl.constexpr(float("-inf"))


@triton.jit
def _read(row, ids, end, SIZE: tl.constexpr, MASK: tl.constexpr):
    """Logits of some ids in fp32; the mask, an end token and ids past the last are impossible."""
    x = tl.load(row + ids, mask=ids < SIZE, other=NOWHERE).to(tl.float32)
    return tl.where((ids == MASK) | (ids == end), NOWHERE, x)


@triton.jit
def _first_above(parts, edges, target, at, COUNT: tl.constexpr):
    """The first part with mass whose edge exceeds a target; at the latest the last one with
    mass.
    """
    found = tl.min(tl.where((edges > target) & (parts > 0), at, COUNT), 0)
    return tl.minimum(found, tl.max(tl.where(parts > 0, at, 0), 0))


@triton.jit
def _weight(row, id, end, top, sharpness, SIZE: tl.constexpr, MASK: tl.constexpr):
    """The unnormalised probability of one id, rounded to fp32."""
    x = _read(row, id, end, SIZE, MASK) - top
    return tl.exp(x * sharpness).to(tl.float64)


@triton.jit
def read_rows(
    logits, current, u, temperature, no_end, as_model, asked, kind,
    sample, p_sample, p_current, finite, entropy, certainty, stride,
    SIZE: tl.constexpr, MASK: tl.constexpr, END: tl.constexpr,
    DRAWN: tl.constexpr, TEMPERED: tl.constexpr, DRAW_TOLD: tl.constexpr, MODEL_TOLD: tl.constexpr,
    ENTROPY: tl.constexpr, SURE: tl.constexpr, MARGIN: tl.constexpr, SPREAD: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Draw an id from a row of SIZE logits, and tell what is asked of it; a row a program.

    A tile has BLOCKS blocks of BLOCK ids; a row has TILES tiles, LANES of them with those past its
    end. An id of MASK or END that is negative is none. Told are probabilities as drawn from, of the
    model, or as ``as_model`` says; the latter's entropy where ``asked`` is set, and the certainty
    that ``kind`` names.
    """
    TILE: tl.constexpr = BLOCKS * BLOCK
    r = tl.program_id(0)
    row = logits + r.to(tl.int64) * stride
    end = -1
    if END >= 0:
        end = tl.where(tl.load(no_end + r) != 0, END, -1)
    block = tl.arange(0, BLOCKS)
    lane = tl.arange(0, BLOCK)
    inside = block[:, None] * BLOCK + lane[None, :]

    best = tl.full([BLOCKS, BLOCK], NOWHERE, tl.float32)
    next_best = best
    best_id = inside
    for n in range(TILES):
        ids = n * TILE + inside
        x = _read(row, ids, end, SIZE, MASK)
        if MARGIN:
            next_best = tl.maximum(next_best, tl.minimum(x, best))
        best_id = tl.where(x > best, ids, best_id)
        best = tl.where(x > best, x, best)
    top = tl.max(tl.max(best, 1), 0)
    mode = tl.min(tl.min(tl.where(best == top, best_id, SIZE - 1), 1), 0)

    heat = tl.load(temperature + r)
    greedy = heat == 0.0
    sharpness = tl.minimum(1.0 / tl.where(greedy, 1.0, heat), 1e30).to(tl.float32)
    tile = tl.arange(0, LANES)
    sums = tl.zeros([LANES], tl.float64)
    of_model = tl.full([], 0.0, tl.float64)
    mass = tl.full([], 0.0, tl.float64)
    energy = tl.full([], 0.0, tl.float64)
    drawn_mass = tl.full([], 0.0, tl.float64)
    drawn_energy = tl.full([], 0.0, tl.float64)
    for n in range(TILES):
        x = _read(row, n * TILE + inside, end, SIZE, MASK) - top
        w = tl.exp(x * sharpness) if TEMPERED else tl.exp(x)
        sums = tl.where(tile == n, tl.sum(tl.sum(w, 1).to(tl.float64), 0), sums)
        if TEMPERED and MODEL_TOLD:
            of_model += tl.sum(tl.sum(tl.exp(x), 1).to(tl.float64), 0)
        if ENTROPY:
            wide = x.to(tl.float64)
            e = tl.exp(wide)
            mass += tl.sum(tl.sum(e, 1), 0)
            energy += tl.sum(tl.sum(tl.where(x > NOWHERE, wide, 0.0) * e, 1), 0)
        if SURE:
            wide = w.to(tl.float64)
            drawn_mass += tl.sum(tl.sum(wide, 1), 0)
            if SPREAD:
                log = tl.log(tl.where(w > 0, wide, 1.0))
                drawn_energy += tl.sum(tl.sum(log * wide, 1), 0)
    total = tl.sum(sums, 0)
    if not TEMPERED:
        of_model = total
        sharpness = tl.full([], 1.0, tl.float32)

    id = mode
    if DRAWN:
        target = tl.load(u + r) * total
        hit = _first_above(sums, tl.cumsum(sums, 0), target, tile, LANES)
        target -= tl.sum(tl.where(tile < hit, sums, 0.0), 0)
        x = _read(row, hit * TILE + inside, end, SIZE, MASK) - top
        w = tl.exp(x * sharpness)
        parts = tl.sum(w, 1).to(tl.float64)
        hit_block = _first_above(parts, tl.cumsum(parts, 0), target, block, BLOCKS)
        target -= tl.sum(tl.where(block < hit_block, parts, 0.0), 0)
        own = tl.sum(tl.where(block[:, None] == hit_block, w, 0.0), 0).to(tl.float64)
        within = _first_above(own, tl.cumsum(own, 0), target, lane, BLOCK)
        id = tl.where(greedy, mode, hit * TILE + hit_block * BLOCK + within)
        id = tl.minimum(id, SIZE - 1)  # of a row that is not finite
    here = tl.load(current + r)
    p = 1.0
    p_here = tl.where(here == mode, 1.0, 0.0).to(tl.float64)
    if DRAWN and DRAW_TOLD:
        own_p = _weight(row, id, end, top, sharpness, SIZE, MASK) / total
        own_here = _weight(row, here, end, top, sharpness, SIZE, MASK) / total
        p = tl.where(greedy, 1.0, own_p)
        p_here = tl.where(greedy, p_here, own_here)
    if MODEL_TOLD:
        model_p = _weight(row, id, end, top, 1.0, SIZE, MASK) / of_model
        model_here = _weight(row, here, end, top, 1.0, SIZE, MASK) / of_model
        if DRAW_TOLD:
            p = tl.where(tl.load(as_model + r) != 0, model_p, p)
            p_here = tl.where(tl.load(as_model + r) != 0, model_here, p_here)
        else:
            p = model_p
            p_here = model_here
    tl.store(sample + r, id.to(tl.int64))
    tl.store(p_sample + r, p)
    tl.store(p_current + r, p_here)
    tl.store(finite + r, (total == total) & (total < float("inf")))
    if ENTROPY:
        h = tl.log(mass) - energy / mass
        tl.store(entropy + r, tl.where(tl.load(asked + r) != 0, h, 0.0))
    if SURE:
        which = tl.load(kind + r)
        sure = tl.where(
            which == 1, _weight(row, id, end, top, sharpness, SIZE, MASK) / drawn_mass, 0.0
        )
        if MARGIN:
            others = tl.maximum(tl.where(best_id == mode, NOWHERE, best), next_best)
            second = tl.exp((tl.max(tl.max(others, 1), 0) - top) * sharpness).to(tl.float64)
            sure = tl.where(which == 2, 1.0 / drawn_mass - second / drawn_mass, sure)
        if SPREAD:
            spread = tl.log(drawn_mass) - drawn_energy / drawn_mass
            sure = tl.where(which == 3, -spread, sure)
        tl.store(certainty + r, sure)
