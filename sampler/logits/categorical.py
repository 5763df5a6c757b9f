"""Finding an id in each row of a wide table: the highest, the nucleus, one drawn at random.

Rows are looked at in blocks of ids: first which block, then which id inside it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 128
FEW, MORE = 64, 4
"""Entries that most nuclei are found among; how many times as many are tried next."""
SUMS = 1e-9
"""Relative deviation of sums in float64 in another order, and more."""
SORTED_ELEMENTS = 1 << 25
"""Entries that are sorted at once: sorting takes about 30 bytes for each."""


def in_blocks(logits: Tensor) -> Tensor:
    """A copy of logits [R, V] in fp32, filled up with impossible ids to whole blocks."""
    count, vocab = logits.shape
    width = vocab if vocab <= BLOCK else -(-vocab // BLOCK) * BLOCK
    full = logits.new_empty(count, width, dtype=torch.float32)
    full[:, :vocab].copy_(logits)
    full[:, vocab:].fill_(-torch.inf)
    return full


def blocks_of(values: Tensor) -> Tensor:
    """[R, W] -> [R, W / block, block]."""
    count, width = values.shape
    block = BLOCK if width % BLOCK == 0 else width
    return values.view(count, width // block, block)


def block_sums(weights: Tensor) -> Tensor:
    """[R, W] -> sums of blocks in float64."""
    return blocks_of(weights).sum(-1).double()


def peak(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of each row [R, W], and the lowest id that has it."""
    blocks = blocks_of(logits)
    tops = blocks.amax(-1)
    hit = tops.argmax(-1, keepdim=True)
    inside = blocks.gather(1, hit[:, :, None].expand(-1, 1, blocks.shape[-1]))[:, 0]
    ids = hit[:, 0] * blocks.shape[-1] + inside.argmax(-1)
    return tops.gather(1, hit)[:, 0], ids


def sharpness_of(temperature: Tensor) -> Tensor:
    """The inverse temperature in fp32, by which logits are multiplied; 1 at temperature 0."""
    return torch.where(temperature == 0, 1.0, (1.0 / temperature).clamp(max=1e30)).float()


def nucleus(
    weights: Float[Tensor, "R W"],
    top_p: Float[Tensor, " R"],
    may_ask: bool = False,
    crossing: Bool[Tensor, " R"] | None = None,
    at_once: int = SORTED_ELEMENTS,
) -> Float[Tensor, "R W"]:
    """Unnormalised probabilities with zeros outside the nucleus (the official code's rule).

    Likeliest first, ties by lower id, entries are kept while the running sum, their own mass
    included, stays within top_p; the first is always kept.

    Args:
        weights: not negative.
        top_p: mass that the nucleus may have.
        may_ask: sort only the entries that are large enough to be in a nucleus. Their number
            decides a shape, so the device is asked for it.
        crossing: rows in which the entry that exceeds top_p is kept too; None for none.
        at_once: entries that are sorted together where all are sorted.
    """
    limit = top_p * weights.sum(-1, dtype=torch.float64)
    own = torch.ones_like(limit) if crossing is None else (~crossing).double()
    if may_ask:
        return _cut_among_large(weights, limit, own)
    rows = max(1, at_once // weights.shape[1])
    if len(weights) <= rows:
        return _cut(weights, limit, own)
    pieces = zip(weights.split(rows), limit.split(rows), own.split(rows), strict=True)
    return torch.cat([_cut(*piece) for piece in pieces])


def _cut(weights: Tensor, limit: Tensor, own: Tensor) -> Tensor:
    """Zeros from the first entry on, likeliest first, before which a row's mass and its ``own``
    share [R] of the entry exceed its limit [R].
    """
    found, order = weights.sort(dim=-1, descending=True, stable=True)
    mass = found.cumsum(-1, dtype=torch.float64)
    outside = mass - (1.0 - own)[:, None] * found > limit[:, None]
    outside[:, 0].fill_(False)
    kept = found.masked_fill_(outside, 0.0)
    return torch.zeros_like(weights).scatter_(1, order, kept)


def _cut_among_large(weights: Tensor, limit: Tensor, own: Tensor, count: int = FEW) -> Tensor:
    """See ``_cut``. A number of the largest are enough where those above the least of them exceed
    the limit; rows in which they do not are tried with more.
    """
    if 2 * count >= weights.shape[1]:
        return _cut(weights, limit, own)
    found, ids = _largest(weights, count)
    above = found.where(found > found.amin(-1, keepdim=True), 0.0).sum(-1, dtype=torch.float64)
    left = (above <= limit * (1.0 + SUMS)).nonzero()[:, 0]
    if len(left) == len(weights):
        return _cut_among_large(weights, limit, own, MORE * count)
    kept = _cut_among(weights, ids, limit, own)
    if len(left):
        more = _cut_among_large(weights[left], limit[left], own[left], MORE * count)
        kept.index_copy_(0, left, more)
    return kept


def _cut_among(weights: Tensor, ids: Tensor, limit: Tensor, own: Tensor) -> Tensor:
    """See ``_cut``; entries at other ids than these [R, N] are zero."""
    ids = ids.sort(-1).values
    return torch.zeros_like(weights).scatter_(1, ids, _cut(weights.gather(1, ids), limit, own))


def _largest(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest entries of each row and their ids, [R, count] in any order. They are in the
    groups with the largest maxima, which are found much faster than the largest of all entries.
    """
    width = weights.shape[1]
    size = 1 << max(0, (width // count).bit_length() // 2)  # such that both topk take as long
    if size < 4 or width % size:
        return weights.topk(count, sorted=False)
    groups = weights.view(len(weights), size, width // size)  # ids of one remainder are a group
    likely = groups.amax(1).topk(count, sorted=False).indices
    members = torch.arange(0, width, width // size, device=weights.device)
    ids = (likely[:, None] + members[:, None]).flatten(1)
    found, at = weights.gather(1, ids).topk(count, sorted=False)
    return found, ids.gather(1, at)


def inverse_cdf(
    weights: Float[Tensor, "R W"], u: Float[Tensor, " R"]
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Draw one id per row from unnormalised probabilities by one uniform each.

    Cumulative sums in float64: over blocks first (each summed in fp32), then inside the block that
    was hit. Entries of zero weight are never drawn.

    Returns:
        (ids, their weights, total weight of each row).
    """
    blocks, sums = blocks_of(weights), block_sums(weights)
    block = blocks.shape[-1]
    edges = sums.cumsum(-1)
    total = edges[:, -1]
    target = u * total
    hit = _first_above(edges, target)
    rest = target - (edges - sums).gather(1, hit[:, None])[:, 0]
    inside = blocks.gather(1, hit[:, None, None].expand(-1, 1, block))[:, 0]
    within = _first_above(inside.cumsum(-1, dtype=torch.float64), rest)
    return hit * block + within, inside.gather(1, within[:, None])[:, 0].double(), total


def _first_above(edges: Tensor, target: Tensor) -> Tensor:
    """First index whose cumulative sum exceeds the target; at the latest the last entry with
    mass.
    """
    found = torch.searchsorted(edges, target[:, None], right=True)
    last = torch.searchsorted(edges, edges[:, -1:].contiguous(), right=False)
    return torch.minimum(found, last).clamp_(max=edges.shape[1] - 1)[:, 0]
