"""Rows of logits read by one kernel, in the type that the network gave them in.

Left to operations of PyTorch are biases, top-p, log-probabilities that are told, ends that count as
impossible in what is told, the published loop, and what a self-conditioned network asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fusion.choice import ROWS, Draw, Pairs, agrees, launch, ordinary, possible, power_of_two
from sampler.logits.categorical import BLOCK
from sampler.logits.row_requests import ALL, CERTAINTY, Chunk, RowQuery, Some
from sampler.logits.row_stats import RowStats

BLOCKS = 32
"""Of a tile: ids that a program has at once, in blocks."""
SERVED = {"drawn", "tempered", "model", "reheated", "guided", "no_eos", "entropy", *CERTAINTY[1:]}
"""Names of ``Asks`` that the kernel answers, or that are answered before it."""
HEAVY, LIKELY = 8, 16.0
"""In a comparison, ids of a row that have nearly all of its mass, and the logit that they have
about: where many ids share the mass, another rounding may draw another one."""
HEATS = (0.0, 0.7, 1.0, 0.5, 1.1)

Plain = Callable[[Tensor, Chunk, int | None, tuple[int, ...]], RowStats]
"""Logits, chunk, mask and ends -> facts, by operations of PyTorch."""


@dataclass(frozen=True)
class Facts:
    """Everything of some questions about rows that a kernel is compiled for.

    Attributes:
        mask, end: ids that are impossible, the end in rows that say so; -1 for none.
        drawn, tempered: whether some row has a temperature other than 0, and than 0 and 1.
        draw_told, model_told: whether some row tells probabilities as drawn, and as the model has
            them.
        entropy: whether some row asks for it.
        sure, margin, spread: likewise for any ``CERTAINTY``, and for these two.
    """

    mask: int
    end: int
    drawn: bool
    tempered: bool
    draw_told: bool
    model_told: bool
    entropy: bool
    sure: bool
    margin: bool
    spread: bool

    @classmethod
    def of(cls, chunk: Chunk, mask_id: int | None, ends: tuple[int, ...]) -> Facts | None:
        """None where a row asks for more than the kernel tells."""
        asks, query = chunk.asks, chunk.query
        others = (query.bias, query.official, query.tell, query.denoise)
        if asks.keys() - SERVED or any(column is not None for column in others):
            return None
        return cls(
            mask=-1 if mask_id is None else mask_id,
            end=ends[0] if ends and query.no_eos is not None else -1,
            drawn="drawn" in asks,
            tempered="tempered" in asks,
            draw_told=asks.get("model") is not ALL,
            model_told="model" in asks,
            entropy="entropy" in asks,
            sure=any(name in asks for name in CERTAINTY[1:]),
            margin="margin" in asks,
            spread="spread" in asks,
        )


def read_rows(
    logits: Float[Tensor, "R V"],
    chunk: Chunk,
    mask_id: int | None,
    ends: tuple[int, ...],
    plain: Plain,
) -> RowStats | None:
    """The facts asked for; None where the kernel cannot tell them.

    Args:
        logits: of the rows, as the network gave them, or guided.
        chunk: what is asked of them.
        mask_id, ends: see ``row_reader.readout``.
        plain: does the same by operations of PyTorch.
    """
    if not possible(logits) or not ordinary(logits) or logits.stride(1) != 1:
        return None
    facts = Facts.of(chunk, mask_id, ends)
    if facts is None:
        return None
    sizes = (logits.shape[1], *astuple(facts))
    compare = partial(_compare, logits.shape[1], facts, plain)
    return _kernel(logits, chunk, facts) if agrees("read_rows", logits, sizes, compare) else None


def _kernel(logits: Tensor, chunk: Chunk, facts: Facts) -> RowStats:
    (count, size), query = logits.shape, chunk.query
    sample, finite = (logits.new_empty(count, dtype=t) for t in (torch.int64, torch.bool))
    reals = logits.new_zeros(4, count, dtype=torch.float64).unbind(0)
    p_sample, p_current, entropy, certainty = reals
    columns = (
        query.current,
        query.u,
        query.temperature,
        query.no_eos if facts.end >= 0 else None,
        query.as_model if facts.draw_told and facts.model_told else None,
        query.entropy if facts.entropy else None,
        query.certainty if facts.sure else None,
    )
    wide = facts.entropy or facts.margin or facts.spread  # a thread keeps more of an id then
    blocks = min(BLOCKS // 2 if wide else BLOCKS, power_of_two(-(-size // BLOCK)))
    tiles = -(-size // (blocks * BLOCK))
    launch(
        "read_rows",
        (count,),
        logits.device,
        logits,
        *(sample if column is None else column.contiguous() for column in columns),
        sample,
        p_sample,
        p_current,
        finite,
        entropy,
        certainty,
        logits.stride(0),
        SIZE=size,
        MASK=facts.mask,
        END=facts.end,
        DRAWN=facts.drawn,
        TEMPERED=facts.tempered,
        DRAW_TOLD=facts.draw_told,
        MODEL_TOLD=facts.model_told,
        ENTROPY=facts.entropy,
        SURE=facts.sure,
        MARGIN=facts.margin,
        SPREAD=facts.spread,
        BLOCKS=blocks,
        BLOCK=BLOCK,
        TILES=tiles,
        LANES=power_of_two(tiles),
        num_warps=max(1, blocks if wide else blocks // 2),
    )
    return RowStats(
        sample,
        p_sample,
        p_current,
        finite,
        certainty=None if query.certainty is None else certainty,
        entropy=None if query.entropy is None else entropy,
    )


def _compare(size: int, facts: Facts, plain: Plain, draw: Draw) -> Pairs:
    """Facts of some random rows, which ask for everything that a kernel is compiled for."""
    logits = draw(ROWS, size)
    heavy = torch.arange(ROWS)[:, None] + torch.arange(min(HEAVY, size)) * (size // HEAVY + 1)
    heavy = (heavy % size).to(logits.device)
    logits = logits.scatter_add(1, heavy, torch.full_like(logits, LIKELY))
    logits[0, heavy[0]] = LIKELY  # of several that are likeliest, the first one
    chunk = _questions(logits, heavy[:, -1], facts)
    mask = None if facts.mask < 0 else facts.mask
    found = _kernel(logits, chunk, facts)
    expected = plain(logits, chunk, mask, (facts.end,) if facts.end >= 0 else ())
    names = ("sample", "p_sample", "p_current", "finite", "entropy", "certainty")
    pairs = ((getattr(found, name), getattr(expected, name)) for name in names)
    return [pair for pair in pairs if pair[0] is not None]


def _questions(logits: Tensor, current: Tensor, facts: Facts) -> Chunk:
    """Every question that a kernel is compiled for, about ROWS rows."""
    rows = torch.arange(ROWS, device=logits.device)
    heat = torch.tensor(HEATS, dtype=torch.float64, device=logits.device)
    if not facts.tempered:
        heat = (heat > 0).double()
    names = {"drawn": facts.drawn, "tempered": facts.tempered, "entropy": facts.entropy}
    names |= {"reheated": facts.tempered and facts.model_told}
    kinds = (
        [1, *([2] if facts.margin else []), *([3] if facts.spread else [])] if facts.sure else []
    )
    names |= {CERTAINTY[kind]: True for kind in kinds}
    asks: dict[str, Some] = {name: ALL for name, asked in names.items() if asked}
    if facts.model_told:
        asks["model"] = rows if facts.draw_told else ALL
    query = RowQuery(
        current,
        u=(rows.double() + 0.5) / ROWS,
        temperature=heat if facts.drawn else torch.zeros_like(heat),
        certainty=rows.new_tensor(kinds)[rows % len(kinds)] if kinds else None,
        as_model=rows % 2 == 0 if facts.draw_told else rows >= 0,
        entropy=rows != 1 if facts.entropy else None,
        no_eos=rows % 2 == 0 if facts.end >= 0 else None,
    )
    return Chunk(slice(0, ROWS), query, asks, slice(0, 0), may_ask=False)
