"""What a sampler needs to know of a row of logits, without keeping the row.

The head runs on the gathered rows only, a chunk at a time; each chunk of logits is reduced to a
sample and a few scalars per row and dropped. Nothing of shape rows x vocabulary outlives its chunk,
and one random number is drawn per row, not one per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.draw import block_sums, in_blocks, inverse_cdf, nucleus, peak
from sampler.guidance import guided
from sampler.packing import joined
from sampler.query import MIN_ROWS, Chunk

MOST_LIKELY = 20  # ids told of a row whose log-probabilities are wanted


@dataclass(frozen=True)
class RowStats:
    """What is known of each of R rows. A token is drawn from p: the mask suppressed, then
    temperature, then top-p.

    Attributes:
        sample: id drawn from p.
        p_sample: p of that id, or the model's probability of it (``RowQuery.as_model``).
        p_current: the same of the id that stands there.
        entropy: of the model's distribution, in nats; 0 where it was not asked for.
        finite: false where the model's logits were not numbers.
        log_p: of the model's distribution at the id asked for; 0 where it was not.
        top_ids, top_log_p: its likeliest ids, in order; K is 0 unless a row asks.
    """

    sample: Int[Tensor, " R"]
    p_sample: Float[Tensor, " R"]
    p_current: Float[Tensor, " R"]
    entropy: Float[Tensor, " R"]
    finite: Bool[Tensor, " R"]
    log_p: Float[Tensor, " R"]
    top_ids: Int[Tensor, "R K"]
    top_log_p: Float[Tensor, "R K"]

    def part(self, rows: slice) -> RowStats:
        """What is known of some of the rows."""
        return RowStats(*(getattr(self, name)[rows] for name in RowStats.__dataclass_fields__))


def readout(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "H D"],
    chunks: Sequence[Chunk],
    vocab_size: int,
    mask_id: int | None,
    ends: tuple[int, ...] = (),
) -> RowStats:
    """Run ``head`` (hidden rows -> logits [rows, vocab_size]) in chunks, reduce each to
    ``RowStats``.

    Args:
        head: the network's.
        hidden: the R rows asked about, then once more those under guidance, unconditionally.
        chunks: what is asked.
        vocab_size: N.
        mask_id: m, if there is one.
        ends: ids of the end token and the end of a turn, as far as there are such.
    """
    parts = []
    for chunk in chunks:
        query = chunk.query
        logits = _logits(head, hidden[chunk.rows], vocab_size)
        own_type = logits.dtype
        if chunk.pairs.numel():
            bare = _logits(head, hidden[chunk.second], vocab_size)
            both = guided(logits[chunk.pairs], bare, query.guidance_scale[chunk.pairs])
            logits = logits.float().index_copy(0, chunk.pairs, both)
        parts.append(row_stats(logits, chunk, mask_id, ends, own_type))
    return RowStats(
        *(joined([getattr(p, name) for p in parts]) for name in RowStats.__dataclass_fields__)
    )


def _logits(head: Callable[[Tensor], Tensor], hidden: Tensor, vocab_size: int) -> Tensor:
    """Logits of some rows, with zero rows behind them where they are few."""
    count = hidden.shape[0]
    if not count:
        return hidden.new_zeros(0, vocab_size)
    return head(F.pad(hidden, (0, 0, 0, max(0, MIN_ROWS - count))))[:count]


def row_stats(
    logits: Float[Tensor, "R V"],
    chunk: Chunk,
    mask_id: int | None,
    ends: tuple[int, ...] = (),
    network_dtype: torch.dtype = torch.float32,
) -> RowStats:
    """Sample and scalars of each row of logits; fp32 inside blocks of ids, float64 across them."""
    vocab, query = logits.shape[-1], chunk.query
    logits = in_blocks(logits).scatter_add_(1, query.bias_ids, query.bias.float())
    if mask_id is not None:
        _suppress(logits, mask_id, ~query.may_be_mask)
    if ends:
        _suppress(logits, ends[0], query.no_eos)
    rounded, lasts = chunk.rounded, (query.eos_last, query.eot_last)
    softmax = logits.new_empty(0, vocab)
    if rounded.numel():
        softmax = logits[rounded, :vocab].to(network_dtype)
        for end, last in zip(ends, lasts, strict=False):
            _suppress(softmax, end, last[rounded])
        softmax = softmax.softmax(-1)
    highest, mode = peak(logits)
    logits -= highest[:, None]
    greedy = query.temperature == 0
    # what is asked of the model's own distribution is copied before the temperature changes it
    reheated, telling, endless = chunk.reheated, chunk.telling, chunk.endless
    own = logits[reheated].exp_()
    entropy = torch.zeros_like(query.u)
    if chunk.entropies.numel():
        log_p = logits[chunk.entropies].double().log_softmax(-1)
        entropy[chunk.entropies] = torch.special.entr(log_p.exp()).sum(-1)
    log_p_told = logits[telling].double().log_softmax(-1)
    log_p_endless = logits[endless].double()
    for end, last in zip(ends, lasts, strict=False):
        _suppress(log_p_endless, end, last[endless])
    log_p_endless = log_p_endless.log_softmax(-1)

    hot, narrow = chunk.tempered, chunk.narrow
    if hot.numel():
        sharpness = (1.0 / query.temperature[hot]).clamp(max=1e30).float()
        logits[hot] *= sharpness[:, None]
    weights = logits.exp_()  # unnormalised probabilities
    here = weights.gather(1, query.current[:, None])[:, 0].double()
    sample, at_sample, total = inverse_cdf(weights, query.u)
    finite = total.isfinite()
    model_total = total.clone()
    model_total[reheated] = block_sums(own).sum(-1)

    if narrow.numel():
        ids, kept = nucleus(weights[narrow], query.top_p[narrow], vocab)
        pick, at_pick, mass = inverse_cdf(kept, query.u[narrow])
        sample[narrow] = ids.gather(1, pick[:, None])[:, 0]
        at_sample[narrow], total[narrow] = at_pick, mass
        is_here = ids == query.current[narrow, None]
        here[narrow] = torch.where(is_here, kept, 0.0).sum(-1, dtype=torch.float64)

    sample = torch.where(greedy, mode, sample)

    def told(ids: Tensor, as_drawn: Tensor) -> Tensor:
        """The model's probability of the ids, or the one that they were drawn with."""
        at_ids = weights.gather(1, ids[:, None])[:, 0]
        at_ids[reheated] = own.gather(1, ids[reheated, None])[:, 0]
        p = torch.where(query.as_model, at_ids.double() / model_total, as_drawn)
        if endless.numel():
            p[endless] = log_p_endless.gather(1, ids[endless, None])[:, 0].exp()
        if rounded.numel():
            p[rounded] = softmax.gather(1, ids[rounded, None])[:, 0].double()
        return p

    log_p = torch.zeros_like(total)
    top_ids, top_log_p = (t.new_zeros(len(sample), 0) for t in (sample, total))
    if telling.numel():
        written = torch.where(query.written < 0, sample, query.written)[telling]
        log_p[telling] = log_p_told.gather(1, written[:, None])[:, 0]
        best = log_p_told.topk(min(MOST_LIKELY, vocab))
        top_ids, top_log_p = (
            t.new_zeros(len(sample), best.indices.shape[1]) for t in (sample, total)
        )
        top_ids[telling], top_log_p[telling] = best.indices, best.values

    return RowStats(
        sample=sample,
        p_sample=told(sample, torch.where(greedy, 1.0, at_sample / total)),
        p_current=told(
            query.current, torch.where(greedy, (query.current == mode).double(), here / total)
        ),
        entropy=entropy,
        finite=finite,
        log_p=log_p,
        top_ids=top_ids,
        top_log_p=top_log_p,
    )


def _suppress(logits: Tensor, id_: int, where: Tensor) -> None:
    """Make one id impossible in some rows."""
    logits[:, id_] = torch.where(where, -torch.inf, logits[:, id_])
