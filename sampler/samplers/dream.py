"""Dream's decoding (arXiv:2508.15487): a share of the masks at each step, the most certain first.

With masks M left, step i of S fills int(M (1 - t_{i+1} / t_i)) of them, the last step all, where
t falls evenly from 1 to ``eps``. ``alg`` says which, by the distribution that tokens are drawn
from, after temperature and top-p:

- ``entropy``: those of lowest entropy;
- ``maskgit_plus``: those whose token is likeliest;
- ``topk_margin``: those whose likeliest token is furthest ahead of the next;
- ``origin``: each with probability 1 - t_{i+1} / t_i, whatever the model says.

``alg_temp`` draws them without replacement, by softmax(certainty / ``alg_temp``), instead of taking
the first. Among equals, the token that the model gave a higher probability comes first, then the
lower position. Counts are those of a canvas by itself: the published loop takes the mean over a
batch. With blocks, each has its share of the steps, as in Fast-dLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import CERTAINTY, Asks, RowQuery
from sampler.logits.row_stats import RowStats
from sampler.now import Now
from sampler.packing import best_of_each
from sampler.params import FIRST_ALONE, BlockParams, InvalidParam, choice, number, param
from sampler.philox import Role, uniforms
from sampler.plan import Plan, Rows, Written, row_settings
from sampler.samplers.blocks import alone_every, blocks_of, first_alone
from sampler.state import Columns, SamplerState

ALG = choice(
    "which masks a step of Dream fills",
    "entropy",
    "maskgit_plus",
    "topk_margin",
    "origin",
    label="Order",
)
MEASURES = {"entropy": "spread", "maskgit_plus": "sample", "topk_margin": "margin"}
TIES = 1e-9
"""Weight of the model's probability in a score: it decides among equals alone."""


@dataclass(frozen=True)
class DreamState(SamplerState):
    """Columns, [B].

    Attributes:
        certainty: index in ``CERTAINTY`` of the measure that ``alg`` names; 0 for ``origin``.
        alg_temp, eps: of the parameters.
        block_length: positions of a block; the whole canvas where none was chosen.
        alone_every: see ``sampler.samplers.blocks``.
        crossing: of ``top_p_rule``.
        no_eos: ``logits_eos_inf``.
    """

    certainty: Int[Tensor, " B"]
    alg_temp: Float[Tensor, " B"]
    eps: Float[Tensor, " B"]
    block_length: Int[Tensor, " B"]
    alone_every: Int[Tensor, " B"]
    crossing: Bool[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases."""
        for p, positions, start in zip(params, free, first, strict=True):
            p.own.check_canvas(p.steps, positions + start)
        lengths = [max(1, p.own.block_positions(n)) for p, n in zip(params, free, strict=True)]
        return cls(
            columns.integers([CERTAINTY.index(MEASURES.get(p.own.alg, "")) for p in params]),
            columns.reals([p.own.alg_temp for p in params]),
            columns.reals([p.own.eps for p in params]),
            columns.integers(lengths),
            columns.integers([alone_every(p) for p in params]),
            columns.flags([p.own.keeps_crossing for p in params]),
            columns.flags([p.own.logits_eos_inf for p in params]),
        )

    def active_block(
        self, batch: CanvasBatch[Any], mask_id: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SamplerState``: as planned."""
        del mask_id
        length = self.block_length.numpy()
        block, _, _ = planned_block(batch)
        first = block.numpy() * length
        return first, first + length


@dataclass(frozen=True)
class DreamParams(BlockParams):
    """Parameters of Dream's decoding; named as in its ``generation_config.json``."""

    state = DreamState
    reads_open_masks = True
    alg: str = param(ALG)
    alg_temp: float = param(
        number(0.0, "temperature of the order in which masks are filled; 0 takes the first", 0, 1e6)
    )
    eps: float = param(
        number(1e-3, "time at which the last step ends", 0, 1, open_low=True, open_high=True)
    )
    first_alone: bool = param(FIRST_ALONE)

    def most_steps(self, free: int) -> int:
        """A step for each position in aligned blocks; elsewhere as many as are asked for."""
        return max(1, free) if self.block_aligned else super().most_steps(free)

    def check_together(self) -> None:
        """Raise InvalidParam for an order by chance that has a temperature too."""
        if self.alg == "origin" and self.alg_temp > 0:
            raise InvalidParam("alg_temp", "must be 0 for alg origin, which has no order")


@dataclass(frozen=True)
class DreamProposal:
    """The masks that a step may fill, and how many it does.

    Attributes:
        marks: positions.
        count: masks to fill, per canvas.
    """

    marks: Bool[Tensor, " T"]
    count: Int[Tensor, " B"]


def planned_block(batch: CanvasBatch[DreamState]) -> tuple[Tensor, Tensor, Tensor]:
    """The block of the step that comes next, the step's index in it, and the block's steps, [B]."""
    blocks, steps = blocks_of(batch), batch.steps
    step = torch.minimum(batch.step, steps - 1)
    block = torch.minimum(((step + 1) * blocks - 1) // steps, blocks - 1)
    begins, ends = block * steps // blocks, (block + 1) * steps // blocks
    return block, step - begins, ends - begins


def share_of_step(
    index: Int[np.ndarray, " B"], steps: Int[np.ndarray, " B"], eps: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B"]:
    """1 - t_{i+1} / t_i in fp32, as ``torch.linspace(1, eps, steps + 1)`` has these times.

    Args:
        index: i.
        steps: S.
        eps: where the times end.
    """
    one, end = np.float32(1.0), eps.astype(np.float32)
    slope = ((end - one) / steps.astype(np.float32)).astype(np.float64)

    def time(i: np.ndarray) -> np.ndarray:
        early = i < (steps + 1) // 2  # counted from the nearer end, and rounded once
        exact = np.where(early, 1.0 + slope * i, end - slope * (steps - i))
        return exact.astype(np.float32)

    return one - time(index + 1) / time(index)


@dataclass(frozen=True)
class Dream:
    """Dream's sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m.
        ends: ids of the end token and the end of a turn, where present.
    """

    vocab_size: int
    mask_id: int
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch[DreamState]) -> CanvasBatch[DreamState]:
        """All editable positions start as masks."""
        return batch.masked(self.mask_id)

    def settled(self, batch: CanvasBatch[DreamState]) -> Int[Tensor, " B"]:
        """A filled position stays."""
        return batch.leading(~batch.host.editable | (batch.tokens != self.mask_id))

    def plan(self, batch: CanvasBatch[DreamState]) -> Plan:
        """The share of the masks, and which block they are in."""
        own = batch.own
        at_rows, asks = row_settings(batch, as_model=True, crossing=own.crossing, no_eos=own.no_eos)
        at_rows |= {"seed": batch.seed, "step": batch.step}
        if own.certainty.any():
            at_rows["certainty"] = own.certainty
            kinds = enumerate(CERTAINTY[1:], start=1)
            asks |= Asks.of(**{name: (own.certainty == kind).numpy() for kind, name in kinds})
        if own.alg_temp.any():
            at_rows["alg_temp"] = own.alg_temp
        block, index, steps = planned_block(batch)
        share = share_of_step(index.numpy(), steps.numpy(), own.eps.numpy())
        share = np.where(index.numpy() >= steps.numpy() - 1, 1.0, share)
        at_positions = {"end": (block + 1) * own.block_length}
        at_canvases = {"share": torch.from_numpy(share.astype(np.float64))}
        if (chance := own.certainty == 0).any():
            at_canvases |= {"chance": chance, "its_seed": batch.seed, "its_step": batch.step}
        if own.alone_every.any():
            start = torch.where(steps > 1, block * own.block_length, -1)
            at_canvases |= {"alone_every": own.alone_every}
            at_canvases["start"] = torch.where(index == 0, start, -1)
        return Plan.of(batch, at_positions, at_rows, at_canvases, asks)

    def propose(self, layout: Layout, now: Now, tokens: Int[Tensor, " T"]) -> DreamProposal:
        """Find the masks up to the end of the active block. Reads no logits."""
        canvas, share = layout.canvas, now.of_canvases("share").float()
        marks = layout.editable & (tokens == self.mask_id)
        marks = marks & (layout.rank < now.at_positions(canvas)["end"])
        if "chance" in now.names[0]:
            chance = now.of_canvases("chance") != 0
            seed, step = (now.of_canvases(n)[canvas] for n in ("its_seed", "its_step"))
            u, _ = uniforms(seed, step, layout.position, Role.BRANCH)
            marks = marks & (~chance[canvas] | (u < share.double()[canvas]))
            share = torch.where(chance, 1.0, share)
        if "alone_every" in now.names[0]:
            start = now.of_canvases("start")
            alone = first_alone(layout, now, marks, start)
            share = torch.where(layout.counts(alone) < layout.counts(marks), 1.0, share)
            marks = alone
        count = (layout.counts(marks).float() * share).long()
        return DreamProposal(marks & (count > 0)[canvas], count)

    def query(
        self, layout: Layout, tokens: Tensor, proposal: DreamProposal, rows: Rows
    ) -> RowQuery:
        """Ask for the certainty of each distribution; draw where there is a temperature."""
        its = rows.settings
        u, order = uniforms(its["seed"], its["step"], rows.position, Role.TOKEN)
        its["order"] = order
        return RowQuery.of(
            its, tokens[rows.at], u, as_model=torch.ones_like(rows.at, dtype=torch.bool)
        )

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Int[Tensor, " T"],
        proposal: DreamProposal,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """Fill the most certain masks of each canvas."""
        its, score = rows.settings, stats.p_sample * TIES
        if stats.certainty is not None:
            score = score + stats.certainty
        if "alg_temp" in its:
            gumbel = -(-(its["order"].clamp(min=1e-300)).log()).log()
            heat = its["alg_temp"]
            drawn = score / torch.where(heat > 0, heat, 1.0) + gumbel
            score = torch.where(heat > 0, drawn, score)
        group = rows.canvas
        if rows.valid is not None:
            group = torch.where(rows.valid, group, layout.size)
        chosen, _ = best_of_each(score, group, proposal.count)
        target = torch.where(chosen, rows.packed, layout.positions)
        return Written(F.pad(tokens, (0, 1)).scatter_(0, target, stats.sample)[:-1], {})
