"""What a sampler needs to know of a row of logits, without keeping the row.

The head runs on the gathered rows only, a chunk at a time; each chunk of logits is reduced to a
sample and a few scalars per row and dropped. Nothing of shape rows x vocabulary outlives its chunk,
and one random number is drawn per row, not one per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.logits.categorical import block_sums, in_blocks, inverse_cdf, nucleus, peak
from sampler.logits.guidance import guided
from sampler.logits.head import logits_of
from sampler.logits.row_requests import Chunk
from sampler.packing import joined

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
        logits = logits_of(head, hidden[chunk.rows], vocab_size)
        own_type = logits.dtype
        if chunk.pairs.numel():
            bare = logits_of(head, hidden[chunk.second], vocab_size)
            both = guided(logits[chunk.pairs], bare, query.guidance_scale[chunk.pairs])
            logits = logits.float().index_copy(0, chunk.pairs, both)
        parts.append(row_stats(logits, chunk, mask_id, ends, own_type))
    return RowStats(
        *(joined([getattr(p, name) for p in parts]) for name in RowStats.__dataclass_fields__)
    )


@dataclass(frozen=True)
class RawDistribution:
    """The raw distribution of the model, before temperature and top-p, in the rows of a chunk that
    ask for it; each tensor has the rows of the ``Chunk``'s field in brackets.

    Attributes:
        chunk: the rows.
        entropy: in nats; 0 where it was not asked for, [R].
        weights: unnormalised [reheated, W].
        log_p: [telling, W].
        log_p_endless: without the ends that count as impossible, [endless, W].
        softmax: in the network's own type, likewise without them, [official, V].
    """

    chunk: Chunk
    entropy: Tensor
    weights: Tensor
    log_p: Tensor
    log_p_endless: Tensor
    softmax: Tensor

    @classmethod
    def of(
        cls, logits: Tensor, chunk: Chunk, ends: tuple[int, ...], softmax: Tensor
    ) -> RawDistribution:
        """``logits`` [R, W] of highest value 0; ``softmax`` as ``_rounded`` has it."""
        entropy = torch.zeros_like(chunk.query.u)
        if chunk.entropies.numel():
            log_p = logits[chunk.entropies].double().log_softmax(-1)
            entropy[chunk.entropies] = torch.special.entr(log_p.exp()).sum(-1)
        endless = _without_ends(logits[chunk.endless].double(), chunk, chunk.endless, ends)
        return cls(
            chunk,
            entropy,
            logits[chunk.reheated].exp_(),
            logits[chunk.telling].double().log_softmax(-1),
            endless.log_softmax(-1),
            softmax,
        )

    def total(self, total: Tensor) -> Tensor:
        """Of each row, what unnormalised probabilities add up to; as drawn in the others [R]."""
        own = total.clone()
        own[self.chunk.reheated] = block_sums(self.weights).sum(-1)
        return own

    def p(self, ids: Tensor, weights: Tensor, total: Tensor, as_drawn: Tensor) -> Tensor:
        """The reported probability of an id in each row [R]: before temperature and top-p (raw), or
        after. ``weights`` [R, W] and ``as_drawn`` [R] are those after.
        """
        chunk = self.chunk
        at_ids = weights.gather(1, ids[:, None])[:, 0]
        at_ids[chunk.reheated] = self.weights.gather(1, ids[chunk.reheated, None])[:, 0]
        p = torch.where(chunk.query.as_model, at_ids.double() / total, as_drawn)
        if (rows := chunk.endless).numel():
            p[rows] = self.log_p_endless.gather(1, ids[rows, None])[:, 0].exp()
        if (rows := chunk.official).numel():
            p[rows] = self.softmax.gather(1, ids[rows, None])[:, 0].double()
        return p

    def told(self, sample: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
        """The last three of ``RowStats``."""
        rows, query = self.chunk.telling, self.chunk.query
        log_p = query.u.new_zeros(len(sample))
        count = min(MOST_LIKELY, vocab) if rows.numel() else 0
        top_ids, top_log_p = (
            sample.new_zeros(len(sample), count),
            log_p.new_zeros(len(sample), count),
        )
        if count:
            written = torch.where(query.written < 0, sample, query.written)[rows]
            log_p[rows] = self.log_p.gather(1, written[:, None])[:, 0]
            top_log_p[rows], top_ids[rows] = self.log_p.topk(count)
        return log_p, top_ids, top_log_p


def row_stats(
    logits: Float[Tensor, "R V"],
    chunk: Chunk,
    mask_id: int | None,
    ends: tuple[int, ...] = (),
    network_dtype: torch.dtype = torch.float32,
) -> RowStats:
    """Sample and scalars of each row of logits; fp32 inside blocks of ids, float64 across them.

    Args:
        logits: of the rows.
        chunk: what is asked of them.
        mask_id, ends: see ``readout``.
        network_dtype: which the network gave its logits in.
    """
    vocab, query = logits.shape[-1], chunk.query
    logits = in_blocks(logits).scatter_add_(1, query.bias_ids, query.bias.float())
    if mask_id is not None:
        _suppress(logits, mask_id, ~query.official)
    if ends:
        _suppress(logits, ends[0], query.no_eos)
    softmax = _rounded(logits[:, :vocab], chunk, ends, network_dtype)
    highest, mode = peak(logits)
    logits -= highest[:, None]
    own = RawDistribution.of(logits, chunk, ends, softmax)

    if (hot := chunk.tempered).numel():
        sharpness = (1.0 / query.temperature[hot]).clamp(max=1e30).float()
        logits[hot] *= sharpness[:, None]
    weights = logits.exp_()  # unnormalised probabilities
    here = weights.gather(1, query.current[:, None])[:, 0].double()
    sample, at_sample, total = inverse_cdf(weights, query.u)
    finite = total.isfinite()
    own_total = own.total(total)
    if (narrow := chunk.narrow).numel():
        ids, kept = nucleus(weights[narrow], query.top_p[narrow], vocab)
        pick, at_pick, mass = inverse_cdf(kept, query.u[narrow])
        sample[narrow] = ids.gather(1, pick[:, None])[:, 0]
        at_sample[narrow], total[narrow] = at_pick, mass
        is_here = ids == query.current[narrow, None]
        here[narrow] = torch.where(is_here, kept, 0.0).sum(-1, dtype=torch.float64)

    greedy, current = query.temperature == 0, query.current
    sample = torch.where(greedy, mode, sample)
    p_sample = torch.where(greedy, 1.0, at_sample / total)
    p_current = torch.where(greedy, (current == mode).double(), here / total)
    log_p, top_ids, top_log_p = own.told(sample, vocab)
    return RowStats(
        sample=sample,
        p_sample=own.p(sample, weights, own_total, p_sample),
        p_current=own.p(current, weights, own_total, p_current),
        entropy=own.entropy,
        finite=finite,
        log_p=log_p,
        top_ids=top_ids,
        top_log_p=top_log_p,
    )


def _rounded(
    logits: Tensor, chunk: Chunk, ends: tuple[int, ...], network_dtype: torch.dtype
) -> Tensor:
    """A softmax in the network's own type of the rows that ask for one [official, V]."""
    rows = chunk.official
    if not rows.numel():
        return logits[:0]
    return _without_ends(logits[rows].to(network_dtype), chunk, rows, ends).softmax(-1)


def _without_ends(logits: Tensor, chunk: Chunk, rows: Tensor, ends: tuple[int, ...]) -> Tensor:
    """Logits of some rows of a chunk, changed in place: the ends impossible where that is asked."""
    query = chunk.query
    for end, last in zip(ends, (query.eos_last, query.eot_last), strict=False):
        _suppress(logits, end, last[rows])
    return logits


def _suppress(logits: Tensor, id_: int, where: Tensor) -> None:
    """Make one id impossible in some rows."""
    logits[:, id_] = torch.where(where, -torch.inf, logits[:, id_])
