"""Reads rows of logits: a sample and a few scalars of each, without keeping the row.

The head runs on the gathered rows only, a chunk at a time; each chunk of logits is reduced to a
sample and a few scalars per row and dropped. Nothing of shape rows x vocabulary outlives its chunk,
and one random number is drawn per row, not one per entry.

What a chunk is asked for is known before its logits are, so nothing here waits for a value: an
operation is left out if no row of the chunk needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sampler.logits.categorical import (
    block_sums,
    in_blocks,
    inverse_cdf,
    nucleus,
    peak,
    sharpness_of,
)
from sampler.logits.guidance import guided
from sampler.logits.head import MIN_ROWS, logits_of
from sampler.logits.row_kernel import read_rows
from sampler.logits.row_requests import ALL, CERTAINTY, LIKELIEST, Chunk, Some
from sampler.logits.row_stats import RowStats

LEAST_LOG_P = -1e4
MOST_LIKELY = 20  # ids told of a row whose log-probabilities are wanted


class LogitReader(Protocol):
    """Reads more of some rows than ``RowStats`` tells, while their logits are there."""

    def within(self, chunk: slice) -> slice | None:
        """Its rows in a chunk of the query, counted from the chunk's first; None for none."""
        ...

    def see(self, logits: Tensor, may_ask: bool) -> None:
        """Logits of these rows, the mask suppressed; not to be kept nor changed. ``may_ask``: see
        ``Chunk``.
        """
        ...


def readout(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "H D"],
    chunks: Sequence[Chunk],
    vocab_size: int,
    mask_id: int | None,
    ends: tuple[int, ...] = (),
    readers: Sequence[LogitReader] = (),
    least: int = MIN_ROWS,
    expected: Callable[[Tensor], Tensor] | None = None,
) -> RowStats:
    """Run ``head`` (hidden rows -> logits [rows, vocab_size]) in chunks, reduce each to
    ``RowStats``.

    Args:
        head: the network's.
        hidden: the R rows asked about, then once more those under guidance, unconditionally.
        chunks: what is asked.
        vocab_size: N.
        mask_id: m, if there is one.
        ends: ids of the end token and the end of a turn, where there are such.
        readers: of some of the rows.
        least: rows that ``head`` is called with at least.
        expected: of the network, weights of ids -> sums of embeddings; None where none are wanted.
    """
    parts = []
    for chunk in chunks:
        logits = logits_of(head, hidden[chunk.rows], vocab_size, least)
        own_type = logits.dtype
        if (pairs := chunk.asks.get("guided")) is not None:
            bare = logits_of(head, hidden[chunk.second], vocab_size, least)
            scale = _of(chunk.query.guidance_scale, pairs)
            logits = _put(logits.float(), pairs, guided(logits[pairs], bare, scale))
        parts.append(row_stats(logits, chunk, mask_id, ends, own_type, readers, expected))
    return RowStats.joined(parts)


def row_stats(
    logits: Float[Tensor, "R V"],
    chunk: Chunk,
    mask_id: int | None,
    ends: tuple[int, ...] = (),
    network_dtype: torch.dtype = torch.float32,
    readers: Sequence[LogitReader] = (),
    expected: Callable[[Tensor], Tensor] | None = None,
) -> RowStats:
    """Sample and scalars of each row of logits; fp32 inside blocks of ids, float64 across them.

    Args:
        logits: of the rows.
        chunk: what is asked of them.
        mask_id, ends, readers: see ``readout``.
        network_dtype: which the network gave its logits in.
        expected: see ``readout``.
    """
    if all(reader.within(chunk.rows) is None for reader in readers):
        found = read_rows(logits, chunk, mask_id, ends, _plain)
        if found is not None:
            return found
    return _plain(logits, chunk, mask_id, ends, network_dtype, readers, expected)


def _plain(
    logits: Tensor,
    chunk: Chunk,
    mask_id: int | None,
    ends: tuple[int, ...],
    network_dtype: torch.dtype = torch.float32,
    readers: Sequence[LogitReader] = (),
    expected: Callable[[Tensor], Tensor] | None = None,
) -> RowStats:
    """See ``row_stats``; by operations of PyTorch."""
    vocab, query, asks = logits.shape[-1], chunk.query, chunk.asks
    logits = in_blocks(logits)
    if query.bias is not None and query.bias_ids is not None:
        logits.scatter_add_(1, query.bias_ids, query.bias.float())
    if mask_id is not None:
        _suppress(logits, mask_id, None if query.official is None else ~query.official)
    if ends and query.no_eos is not None:
        _suppress(logits, ends[0], query.no_eos)
    softmax = _rounded(logits[:, :vocab], chunk, ends, network_dtype)
    highest, mode = peak(logits)
    logits -= highest[:, None]
    for reader in readers:
        if (own := reader.within(chunk.rows)) is not None:
            reader.see(logits[own], chunk.may_ask)
    model = RawDistribution.of(logits, chunk, ends, softmax)

    if (hot := asks.get("tempered")) is not None:
        sharpness = sharpness_of(query.temperature[hot])
        if hot is ALL:
            logits *= sharpness[:, None]
        else:
            logits[hot] *= sharpness[:, None]
    denoises = query.denoise is not None
    draw = Draw.of(logits.exp() if denoises else logits.exp_(), mode, chunk)
    own_total = model.total(draw.total)
    log_p, top_ids, top_log_p, told_entropy = model.told(draw.sample, vocab)
    spread, mean = draw.denoised(logits, chunk, vocab, expected) if denoises else (None, None)
    return RowStats(
        sample=draw.sample,
        p_sample=model.p(draw.sample, draw, own_total, draw.p_sample),
        p_current=model.p(query.current, draw, own_total, draw.p_current),
        finite=draw.total.isfinite(),
        certainty=draw.certainty,
        entropy=model.entropy,
        likeliest=None if query.denoise is None else mode,
        spread=spread,
        expected=mean,
        log_p=log_p,
        top_ids=top_ids,
        top_log_p=top_log_p,
        told_entropy=told_entropy,
    )


@dataclass(frozen=True)
class Draw:
    """One id drawn in each row of a chunk, after temperature and top-p.

    Attributes:
        weights: unnormalised probabilities before top-p [R, W].
        total: their sum.
        sample: the id; the likeliest at temperature 0.
        p_sample, p_current: probability of it, and of the id that stands there, as drawn from; None
            where all rows ask for the model's.
        certainty: see ``RowStats``.
        kept: the weights after top-p.
    """

    weights: Float[Tensor, "R W"]
    total: Float[Tensor, " R"]
    sample: Int[Tensor, " R"]
    p_sample: Float[Tensor, " R"] | None
    p_current: Float[Tensor, " R"] | None
    certainty: Float[Tensor, " R"] | None
    kept: Float[Tensor, "R W"]

    @classmethod
    def of(cls, weights: Tensor, mode: Tensor, chunk: Chunk) -> Draw:
        """Draw by one uniform a row; ``mode`` [R] is the likeliest id."""
        query, asks = chunk.query, chunk.asks
        here, told = query.current, asks.get("model") is not ALL
        greedy = query.temperature == 0
        if "drawn" not in asks:
            total = block_sums(weights).cumsum(-1)[:, -1]
            certain = (torch.ones_like(total), (here == mode).double()) if told else (None, None)
            return cls(weights, total, mode, *certain, _certainty(weights, mode, chunk), weights)
        sample, at_sample, total = inverse_cdf(weights, query.u)
        mass, at_here = total, weights.gather(1, here[:, None])[:, 0].double() if told else total
        drawn_from = weights
        if (narrow := asks.get("narrow")) is not None:
            top_p = _of(query.top_p, narrow)
            crossing = None if query.crossing is None else query.crossing[narrow]
            cut = nucleus(weights[narrow], top_p, chunk.may_ask, crossing)
            pick, at_pick, left = inverse_cdf(cut, query.u[narrow])
            where = top_p < 1.0
            sample = _put(sample, narrow, pick, where)
            if query.certainty is not None or query.denoise is not None:
                drawn_from = _put(weights, narrow, cut, where[:, None])
            if told:
                in_cut = cut.gather(1, here[narrow][:, None])[:, 0].double()
                at_here = _put(at_here, narrow, in_cut, where)
                at_sample = _put(at_sample, narrow, at_pick, where)
                mass = _put(mass, narrow, left, where)
        sample = torch.where(greedy, mode, sample)
        certainty = _certainty(drawn_from, sample, chunk)
        if not told:
            return cls(weights, total, sample, None, None, certainty, drawn_from)
        p_sample = torch.where(greedy, 1.0, at_sample / mass)
        p_here = torch.where(greedy, (here == mode).double(), at_here / mass)
        return cls(weights, total, sample, p_sample, p_here, certainty, drawn_from)

    def denoised(
        self,
        log_weights: Tensor,
        chunk: Chunk,
        vocab: int,
        expected: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """``spread`` and ``expected`` of ``RowStats``; see ``readout``.

        Args:
            log_weights: logarithms of ``weights`` [R, W]; they are written to.
            chunk, vocab, expected: see ``readout``.
        """
        spread = torch.zeros_like(chunk.query.u)
        rows = chunk.asks.get("denoise", spread.new_zeros(0, dtype=torch.int64))
        kept = self.kept[rows]
        total = block_sums(kept).sum(-1)
        # a floor, since 0 times minus infinity is no number; what lies below it weighs nothing
        surprise = -block_sums(log_weights[rows].clamp_min_(LEAST_LOG_P).mul_(kept)).sum(-1)
        spread = _put(spread, rows, surprise / total + total.log())
        if expected is None:
            return spread, None
        p, missing = kept[:, :vocab], MIN_ROWS - len(kept)
        mean = expected(F.pad(p, (0, 0, 0, missing)) if missing > 0 else p)[: len(p)]
        mean = (mean.float() / total[:, None].float()).to(mean.dtype)
        return spread, _put(mean.new_zeros(len(spread), mean.shape[1]), rows, mean)


def _certainty(
    weights: Float[Tensor, "R W"], sample: Int[Tensor, " R"], chunk: Chunk
) -> Float[Tensor, " R"] | None:
    """Certainty of unnormalised probabilities in the rows of a chunk that ask for it."""
    if chunk.query.certainty is None:
        return None
    certainty = torch.zeros_like(chunk.query.u)
    for kind, name in enumerate(CERTAINTY):
        if (rows := chunk.asks.get(name)) is None:
            continue
        p = weights[rows].double()
        p = p / p.sum(-1, keepdim=True)
        if name == "sample":
            found = p.gather(1, sample[rows][:, None])[:, 0]
        elif name == "margin":
            found = p.topk(2).values.diff()[:, 0].neg()
        else:
            found = -entropy_of(p)
        certainty = _put(certainty, rows, found, chunk.query.certainty[rows] == kind)
    return certainty


def entropy_of(p: Float[Tensor, "R W"]) -> Float[Tensor, " R"]:
    """Entropy of each distribution, in nats."""
    return torch.special.entr(p).sum(-1)


@dataclass(frozen=True)
class RawDistribution:
    """The raw distribution of the model, before temperature and top-p, in the rows of a chunk that
    ask for it; a tensor is None where none does.

    Attributes:
        chunk: the rows.
        entropy: in nats; 0 where it was not asked for, [R].
        weights: unnormalised, of the rows whose draw is at another temperature.
        log_p: of those that tell.
        log_p_endless: without the ends that count as impossible, of those that ask for that.
        softmax: in the network's own type, likewise without them, of the official ones.
    """

    chunk: Chunk
    entropy: Tensor | None
    weights: Tensor | None
    log_p: Tensor | None
    log_p_endless: Tensor | None
    softmax: Tensor | None

    @classmethod
    def of(
        cls, logits: Tensor, chunk: Chunk, ends: tuple[int, ...], softmax: Tensor | None
    ) -> RawDistribution:
        """``logits`` [R, W] of highest value 0; ``softmax`` as ``_rounded`` has it."""
        asks, query = chunk.asks, chunk.query
        entropy = log_p = endless = None
        if query.entropy is not None:
            entropy = torch.zeros_like(query.u)
            if (rows := asks.get("entropy")) is not None:
                own = logits[rows].double().log_softmax(-1)
                entropy = _put(entropy, rows, entropy_of(own.exp_()), query.entropy[rows])
        if (rows := asks.get("endless")) is not None:
            endless = _without_ends(logits[rows].clone(), chunk, rows, ends).log_softmax(-1)
        if (rows := asks.get("tell")) is not None:
            log_p = logits[rows].double().log_softmax(-1)
        hot = asks.get("reheated")
        weights = None if hot is None else logits[hot].exp()
        return cls(chunk, entropy, weights, log_p, endless, softmax)

    def total(self, total: Tensor) -> Tensor:
        """Of each row, what unnormalised probabilities add up to; as drawn in the others [R]."""
        if self.weights is None:
            return total
        heat = _of(self.chunk.query.temperature, rows := self.chunk.asks["reheated"])
        own = block_sums(self.weights).sum(-1)
        return _put(total, rows, own, (heat != 0) & (heat != 1))

    def p(self, ids: Tensor, draw: Draw, total: Tensor, as_drawn: Tensor | None) -> Tensor:
        """The reported probability of an id in each row [R]: before temperature and top-p (raw), or
        as drawn [R]. ``total``: that of raw weights.
        """
        asks, query = self.chunk.asks, self.chunk.query
        if "model" not in asks:
            assert as_drawn is not None
            return as_drawn
        hot = asks.get("reheated")
        weights = draw.weights if self.weights is None or hot is not ALL else self.weights
        at_ids = weights.gather(1, ids[:, None])[:, 0]
        if self.weights is not None and isinstance(hot, Tensor):
            at_ids = at_ids.index_copy(0, hot, self.weights.gather(1, ids[hot][:, None])[:, 0])
        p = at_ids.double() / total
        if as_drawn is not None:
            p = torch.where(_of(query.as_model, ALL), p, as_drawn)
        if self.log_p_endless is not None:
            rows = asks["endless"]
            of_ids = self.log_p_endless.gather(1, ids[rows][:, None])[:, 0].double().exp()
            flags = (query.eos_last, query.eot_last)
            either = torch.stack([flag for flag in flags if flag is not None]).any(0)
            p = _put(p, rows, of_ids, either[rows])
        if self.softmax is not None:
            rows = asks["official"]
            of_ids = self.softmax.gather(1, ids[rows][:, None])[:, 0].double()
            p = _put(p, rows, of_ids, _of(query.official, rows))
        return p

    def told(self, sample: Tensor, vocab: int) -> tuple[Tensor | None, ...]:
        """The last four of ``RowStats``."""
        query = self.chunk.query
        if query.tell is None:
            return None, None, None, None
        count = min(MOST_LIKELY, vocab)
        log_p = query.u.new_zeros(len(sample))
        top_ids = sample.new_zeros(len(sample), count)
        top_log_p = log_p.new_zeros(len(sample), count)
        if self.log_p is None:
            return log_p, top_ids, top_log_p, torch.zeros_like(log_p)
        rows = self.chunk.asks["tell"]
        written, mark = sample[rows], query.tell[rows]
        if query.written is not None:
            given = query.written[rows]
            written = torch.where(given < 0, written, given)
        own = self.log_p.gather(1, written[:, None])[:, 0]
        likely, ids = self.log_p.topk(count)
        if query.written is not None:
            own = torch.where(query.written[rows] == LIKELIEST, likely[:, 0], own)
        # a floor, since 0 times minus infinity is no number; what lies below it weighs nothing
        entropy = -(self.log_p.exp() * self.log_p.clamp_min(LEAST_LOG_P)).sum(-1)
        return (
            _put(log_p, rows, own, mark),
            _put(top_ids, rows, ids, mark[:, None]),
            _put(top_log_p, rows, likely, mark[:, None]),
            _put(torch.zeros_like(log_p), rows, entropy, mark),
        )


def _rounded(
    logits: Tensor, chunk: Chunk, ends: tuple[int, ...], network_dtype: torch.dtype
) -> Tensor | None:
    """A softmax in the network's own type of the rows that ask for one [official, V]."""
    rows = chunk.asks.get("official")
    if rows is None:
        return None
    own = logits[rows].to(network_dtype, copy=True)
    return _without_ends(own, chunk, rows, ends).softmax(-1)


def _without_ends(logits: Tensor, chunk: Chunk, rows: Some, ends: tuple[int, ...]) -> Tensor:
    """Logits of some rows of a chunk, changed in place: the ends impossible where that is asked."""
    query = chunk.query
    for end, last in zip(ends, (query.eos_last, query.eot_last), strict=False):
        if last is not None:
            _suppress(logits, end, last[rows])
    return logits


def _suppress(logits: Tensor, id_: int, where: Tensor | None) -> None:
    """Make one id impossible in some rows, or in all."""
    column = logits.select(1, id_)
    if where is None:
        column.fill_(-torch.inf)
    else:
        column.masked_fill_(where, -torch.inf)


def _of(column: Tensor | None, rows: Some) -> Tensor:
    """Some rows of a column that is there."""
    assert column is not None
    return column[rows]


def _put(values: Tensor, rows: Some, new: Tensor, where: Tensor | None = None) -> Tensor:
    """Values with others in some rows; of all rows, those where a mark stands. Rows that are named
    by their indices are marked all.
    """
    if isinstance(rows, Tensor):
        return values.index_copy(0, rows, new)
    return new if where is None else torch.where(where, new, values)
