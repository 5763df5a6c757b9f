"""What a sampler needs to know of a row of logits, without keeping the row.

The head runs on the gathered rows only, a chunk at a time; each chunk of logits is reduced to a
sample and a few scalars per row and dropped. Nothing of shape rows x vocabulary outlives its chunk,
and one random number is drawn per row, not one per entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 1 << 21  # logits held at once (8 MiB in fp32: they stay in a CPU's cache)
MIN_ROWS = 16  # short chunks are padded: a row meets the same arithmetic alone as in company
BLOCK = 128  # inverse CDF: block sums first, then inside one block


@dataclass(frozen=True)
class RowQuery:
    """What is asked of each of R rows.

    Attributes:
        current: id that stands there now.
        u: uniforms for the categorical draw.
        temperature: divides the logits; 0 puts all mass on the likeliest id.
        top_p: mass of the nucleus.
    """

    current: Int[Tensor, " R"]
    u: Float[Tensor, " R"]
    temperature: Float[Tensor, " R"]
    top_p: Float[Tensor, " R"]

    def part(self, rows: slice) -> RowQuery:
        """The query for some of the rows."""
        return RowQuery(self.current[rows], self.u[rows], self.temperature[rows], self.top_p[rows])


@dataclass(frozen=True)
class RowStats:
    """What is known of each of R rows under p: temperature, then top-p applied, the mask
    suppressed.

    Attributes:
        sample: id drawn from p.
        p_sample: p of that id.
        p_current: p of the id that stands there.
        finite: false where the model's logits were not numbers.
    """

    sample: Int[Tensor, " R"]
    p_sample: Float[Tensor, " R"]
    p_current: Float[Tensor, " R"]
    finite: Bool[Tensor, " R"]


def readout(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "R D"],
    query: RowQuery,
    vocab_size: int,
    mask_id: int | None,
) -> RowStats:
    """Run ``head`` (hidden rows -> logits [rows, vocab_size]) in chunks, reduce each to
    ``RowStats``.
    """
    chunk = max(MIN_ROWS, CHUNK_ELEMENTS // vocab_size)
    parts = []
    for start in range(0, hidden.shape[0], chunk):
        rows = hidden[start : start + chunk]
        count = rows.shape[0]
        if count < MIN_ROWS:
            rows = torch.cat((rows, rows.new_zeros(MIN_ROWS - count, rows.shape[1])))
        logits = head(rows)[:count]
        parts.append(row_stats(logits, query.part(slice(start, start + chunk)), mask_id))
    if not parts:
        return row_stats(hidden.new_zeros(0, vocab_size), query, mask_id)
    return RowStats(
        *(torch.cat([getattr(p, name) for p in parts]) for name in RowStats.__dataclass_fields__)
    )


def row_stats(logits: Float[Tensor, "R V"], query: RowQuery, mask_id: int | None) -> RowStats:
    """Sample and scalars of each row of logits; confidence arithmetic in fp32, sums in float64."""
    logits = logits.float()
    if mask_id is not None:
        logits = logits.index_fill(1, torch.tensor([mask_id], device=logits.device), -torch.inf)
    peak, mode = logits.max(-1)
    greedy = query.temperature == 0
    sharpness = (1.0 / query.temperature).clamp(max=1e30).float()
    logits = (logits - peak[:, None]).mul_(torch.where(greedy, 1.0, sharpness)[:, None])
    # unnormalised probabilities, padded with zeros to whole blocks
    count, vocab = logits.shape
    weights = logits.new_zeros(count, vocab if vocab <= BLOCK else -(-vocab // BLOCK) * BLOCK)
    torch.exp(logits, out=weights[:, :vocab])
    del logits
    here = weights.gather(1, query.current[:, None])[:, 0].double()
    sample, at_sample, total = inverse_cdf(weights, query.u)
    finite = total.isfinite()

    narrow = torch.nonzero((query.top_p < 1.0) & ~greedy)[:, 0]
    if narrow.numel():
        ids, kept = nucleus(weights[narrow], query.top_p[narrow], vocab)
        pick, at_pick, mass = inverse_cdf(kept, query.u[narrow])
        sample[narrow] = ids.gather(1, pick[:, None])[:, 0]
        at_sample[narrow], total[narrow] = at_pick, mass
        is_here = ids == query.current[narrow, None]
        here[narrow] = torch.where(is_here, kept, 0.0).sum(-1, dtype=torch.float64)

    return RowStats(
        sample=torch.where(greedy, mode, sample),
        p_sample=torch.where(greedy, 1.0, at_sample / total),
        p_current=torch.where(greedy, (query.current == mode).double(), here / total),
        finite=finite,
    )


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

    Cumulative sums in float64: over blocks first, then inside the block that was hit. Entries of
        zero
    weight are never drawn.

    Returns:
        (ids, their weights, total weight of each row).
    """
    count, width = weights.shape
    block = BLOCK if width % BLOCK == 0 else width
    blocks = weights.view(count, width // block, block)
    sums = blocks.sum(-1, dtype=torch.float64)
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
