"""Finding an id in each row of a wide table: the highest, the nucleus, one drawn at random.

Rows are looked at in blocks of ids: first which block, then which id inside it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128


def in_blocks(logits: Tensor) -> Tensor:
    """A copy of logits [R, V] in fp32, filled up with impossible ids to whole blocks."""
    count, vocab = logits.shape
    width = vocab if vocab <= BLOCK else -(-vocab // BLOCK) * BLOCK
    full = logits.new_empty(count, width, dtype=torch.float32)
    full[:, :vocab] = logits
    full[:, vocab:] = -torch.inf
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


def nucleus(
    weights: Float[Tensor, "R W"], top_p: Float[Tensor, " R"], vocab_size: int
) -> tuple[Int[Tensor, "R K"], Float[Tensor, "R K"]]:
    """The nucleus of each row of unnormalised probabilities (the official code's rule).

    Likeliest first, ties by lower id; entries are kept while the running sum, their own mass
    included, stays within top_p; the first is always kept. Entries of at most (1 - top_p)/V of the
    mass cannot be among them (together they weigh at most 1 - top_p), so only the others are
    sorted.

    Returns:
        ids and their weights, likeliest first; weight 0 outside the nucleus.
    """
    total = weights.sum(-1, dtype=torch.float64)
    floor = ((1.0 - top_p) / vocab_size * total)[:, None]
    candidates = max(1, int((weights > floor).sum(-1).max()))
    ids = weights.topk(candidates, sorted=False).indices.sort(-1).values
    found, order = weights.gather(1, ids).sort(dim=-1, descending=True, stable=True)
    outside = found.cumsum(-1, dtype=torch.float64) > (top_p * total)[:, None]
    outside[:, 0] = False
    return ids.gather(1, order), found.masked_fill_(outside, 0.0)


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
