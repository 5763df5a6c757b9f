"""Denoising of canvases of uniform noise, as DiffusionGemma generates: k = 1, without a mask.

A canvas is ``block_length`` positions, first uniform ids. With n of its N steps left, logits are
divided by T_n = ``t_min`` + (``t_max`` - ``t_min``) n / N. From that distribution come, at each
position, a token, the likeliest token and the entropy. Positions are accepted from the lowest
entropy on, while the entropies of those before sum to at most ``entropy_bound``: they get their
token, all others a new uniform id. Nothing that was accepted stays for that; each step decides
anew.

The first canvas may begin with given tokens in place of uniform ids. A pinned position keeps its
token: its logits are read as if every other token were impossible.

A canvas is complete after N steps, or when its likeliest tokens were the same in the last
``stability_threshold`` steps and this one, and the mean entropy is below ``stop_entropy``. Then the
likeliest tokens are written, and the next canvas begins. Log-probabilities are those of the written
tokens in that step, under the model at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import LIKELIEST, RowQuery
from sampler.logits.row_stats import RowStats
from sampler.now import Now
from sampler.packing import places, running_sums
from sampler.params import (
    ENTROPY_BOUND,
    MAX_STEPS,
    BlockParams,
    integer,
    number,
    param,
)
from sampler.philox import Role, integers, uniforms
from sampler.plan import Plan, Rows, Written, row_settings
from sampler.state import Columns, SamplerState

PUBLISHED_BOUND = 0.1
"""``entropy_bound`` where none is given."""
PINNED = 1e4
"""Added to the logit of the token that a pinned position keeps; the others' weights become 0."""
_MIX = (-7046029254386353131, -4417276706812531889, -4658895280553007687)
"""Odd 64-bit numbers whose products spread the bits of ids and positions."""


@dataclass(frozen=True)
class EntropyBoundState(SamplerState):
    """Columns, [B].

    Attributes:
        block_length: positions of a canvas.
        each: N, steps of a canvas at most.
        t_min, t_max, entropy_bound, stability_threshold, stop_entropy: of the parameters.
        crossing: of ``top_p_rule``.
        no_eos: ``logits_eos_inf``.
        canvas: index of the one that is denoised.
        phase: steps that it has been through.
        stable: steps in a row that left its likeliest tokens as they were.
        digest: of these tokens.
    """

    block_length: Int[Tensor, " B"]
    each: Int[Tensor, " B"]
    t_min: Float[Tensor, " B"]
    t_max: Float[Tensor, " B"]
    entropy_bound: Float[Tensor, " B"]
    stability_threshold: Int[Tensor, " B"]
    stop_entropy: Float[Tensor, " B"]
    crossing: Bool[Tensor, " B"]
    no_eos: Bool[Tensor, " B"]
    canvas: Int[Tensor, " B"]
    phase: Int[Tensor, " B"]
    stable: Int[Tensor, " B"]
    digest: Int[Tensor, " B"]

    @classmethod
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
        """The columns of new canvases."""
        lengths, each = [], []
        for p, positions in zip(params, free, strict=True):
            p.own.check_canvas(p.steps, positions)
            lengths.append(max(1, p.own.block_positions(positions)))
            blocks = max(1, -(-positions // lengths[-1]))
            each.append(min(p.own.max_denoising_steps, p.steps // blocks))
        bounds = [p.own.entropy_bound for p in params]
        return cls(
            columns.integers(lengths),
            columns.integers(each),
            columns.reals([p.own.t_min for p in params]),
            columns.reals([p.own.t_max for p in params]),
            columns.reals([PUBLISHED_BOUND if bound is None else bound for bound in bounds]),
            columns.integers([p.own.stability_threshold for p in params]),
            columns.reals([p.own.stop_entropy for p in params]),
            columns.flags([p.own.keeps_crossing for p in params]),
            columns.flags([p.own.logits_eos_inf for p in params]),
            *(columns.integers([0] * len(params)) for _ in range(4)),
        )

    def block(self, step: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """See ``SamplerState``."""
        del step
        return self.canvas

    def block_steps(self, batch: CanvasBatch[Any]) -> np.ndarray:
        """See ``SamplerState``."""
        del batch
        return self.phase.numpy()

    def active_block(
        self, batch: CanvasBatch[Any], mask_id: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SamplerState``: the canvas that is denoised."""
        del batch, mask_id
        length = self.block_length.numpy()
        first = self.canvas.numpy() * length
        return first, first + length


@dataclass(frozen=True)
class EntropyBoundParams(BlockParams):
    """Parameters of such requests; ``steps`` bounds those of all canvases together."""

    state = EntropyBoundState
    needs_mask: ClassVar[bool] = False
    needs_canvases: ClassVar[bool] = True
    entropy_bound: float | None = param(ENTROPY_BOUND)
    max_denoising_steps: int = param(
        integer(48, "steps of a canvas at most", 1, MAX_STEPS, label="Steps of a canvas")
    )
    t_min: float = param(
        number(0.4, "temperature that the steps of a canvas fall to", 0, 10, open_low=True)
    )
    t_max: float = param(number(0.8, "temperature of a canvas' first step", 0, 10, open_low=True))
    stability_threshold: int = param(
        integer(1, "steps that may not change a canvas' likeliest tokens before it ends", 0, 4096)
    )
    stop_entropy: float = param(
        number(0.005, "mean entropy below which a stable canvas ends, in nats", 0, 1e6)
    )

    @property
    def fixed_by(self) -> str:
        """The temperature follows from the steps of a canvas."""
        return "sampler: entropy_bound"

    def most_steps(self, free: int) -> int:
        """N for each canvas."""
        length = max(1, self.block_positions(free))
        return max(1, -(-free // length)) * self.max_denoising_steps


@dataclass(frozen=True)
class EntropyBoundProposal:
    """The canvases that are denoised.

    Attributes:
        marks: their positions.
    """

    marks: Bool[Tensor, " T"]


@dataclass(frozen=True)
class EntropyBound:
    """The sampler for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N.
        mask_id: None; there is no mask.
        ends: ids of the end token and the end of a turn, where present.
    """

    vocab_size: int
    mask_id: int | None
    ends: tuple[int, ...] = ()

    def begin(self, batch: CanvasBatch[EntropyBoundState]) -> CanvasBatch[EntropyBoundState]:
        """All editable positions start as uniform ids, but for those that stand."""
        host = batch.host
        free = host.editable
        if batch.stands is not None:
            free = free & ~torch.from_numpy(batch.stands)
        _, u = uniforms(
            batch.seed[host.canvas], torch.zeros_like(host.position), host.position, Role.PRIOR
        )
        tokens = torch.where(free, integers(u, self.vocab_size), batch.on_host.tokens)
        return replace(batch.with_tokens(tokens), noise=free.numpy().copy(), stands=None)

    def settled(self, batch: CanvasBatch[EntropyBoundState]) -> Int[Tensor, " B"]:
        """Canvases that are complete stay."""
        host, own = batch.host, batch.own
        passed = torch.where(batch.finished, batch.lengths, own.canvas * own.block_length)
        return batch.leading(~host.editable | (host.rank < passed[host.canvas]))

    def plan(self, batch: CanvasBatch[EntropyBoundState]) -> Plan:
        """The settings of each canvas."""
        own, every = batch.own, torch.ones_like(batch.tell)
        greedy = batch.temperature == 0  # tokens are not drawn; the rest is as at temperature 1
        scale = torch.where(greedy, 1.0, batch.temperature)
        at_rows, asks = row_settings(
            batch,
            as_model=False,
            temperature=torch.full_like(own.t_min, 0.5),  # some; ``query`` has the step's
            denoise=every,
            crossing=own.crossing,
            no_eos=own.no_eos,
        )
        at_rows |= {
            "seed": batch.seed,
            "step": batch.step,
            "phase": own.phase,
            "hottest": own.t_max * scale,
            "cooling": (own.t_max - own.t_min) / own.each * scale,
            "greedy": greedy,
            "entropy_bound": own.entropy_bound,
        }
        if batch.cache is not None:
            at_rows["slot"] = batch.cache.start
        at_canvases = {
            "canvas": own.canvas,
            "stable": own.stable,
            "digest": own.digest,
            "stability_threshold": own.stability_threshold,
            "stop_entropy": own.stop_entropy,
            "each": own.each,
        }
        return Plan.of(batch, {"block_length": own.block_length}, at_rows, at_canvases, asks)

    def propose(self, layout: Layout, now: Now, tokens: Int[Tensor, " T"]) -> EntropyBoundProposal:
        """All positions of the canvas that is denoised. Reads no logits."""
        canvas = layout.canvas
        block_of = layout.rank // now.at_positions(canvas)["block_length"]
        active = now.of_canvases("canvas")
        return EntropyBoundProposal(layout.editable & (block_of == active[canvas]))

    def query(
        self, layout: Layout, tokens: Tensor, proposal: EntropyBoundProposal, rows: Rows
    ) -> RowQuery:
        """Ask for a token, the likeliest one and the entropy at the temperature of the step."""
        its = rows.settings
        heat = its["hottest"] - its["cooling"] * its["phase"]
        u, its["noise"] = uniforms(its["seed"], its["step"], rows.position, Role.TOKEN)
        more = {}
        if "tell" in its:
            more["written"] = torch.full_like(tokens[rows.at], LIKELIEST)
        query = RowQuery.of(its, tokens[rows.at], u, temperature=heat, **more)
        if layout.pinned is None:
            return query
        return query.biased(query.current, torch.where(layout.pinned[rows.at], PINNED, 0.0))

    def noise(self, rows: Rows) -> Int[Tensor, " R"]:
        """New uniform ids for the rows of a step."""
        return integers(rows.settings["noise"], self.vocab_size)

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Int[Tensor, " T"],
        proposal: EntropyBoundProposal,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """Accept the surest positions, make the others noise, and end canvases."""
        size, its, of = layout.size, rows.settings, rows.canvas
        if rows.valid is not None:
            of = torch.where(rows.valid, of, size)
        assert stats.likeliest is not None and stats.spread is not None
        entropy, likeliest = stats.spread, stats.likeliest
        place, counted = places(-entropy, of, size + 1)
        running = running_sums(entropy, of, place, size + 1, rows.longest)
        accepted = running - entropy <= its["entropy_bound"]
        guess = torch.where(its["greedy"] != 0, likeliest, stats.sample)
        new = torch.where(accepted, guess, self.noise(rows))
        count = counted[:-1]
        total = running.new_zeros(size + 1).scatter_reduce(0, of, running, "amax")[:-1]
        digest = _digests(likeliest, rows.position, of, size + 1)[:-1]
        phase, canvas = now.of_canvases("phase"), now.of_canvases("canvas")
        same = (phase > 0) & (digest == now.of_canvases("digest"))
        stable = torch.where(same, now.of_canvases("stable") + 1, 0)
        over = stable >= now.of_canvases("stability_threshold")
        over = over & (total < now.of_canvases("stop_entropy") * count)
        over = (over | (phase + 1 >= now.of_canvases("each"))) & (count > 0)
        ends = F.pad(over, (0, 1))[of]
        columns = {
            "canvas": canvas + over.long(),
            "phase": torch.where(over, 0, phase + (count > 0).long()),
            "stable": torch.where(over, 0, stable),
            "digest": digest,
        }
        new = torch.where(ends, likeliest, new)
        after = F.pad(tokens, (0, 1)).scatter_(0, rows.packed, new)[:-1]
        completed = ends
        if layout.pinned is not None:  # given tokens are not the model's
            completed = ends & ~layout.pinned[rows.at]
        return Written(after, columns, noise=~(accepted | ends), completed=completed)


def _digests(
    ids: Int[Tensor, " R"], position: Int[Tensor, " R"], group: Int[Tensor, " R"], groups: int
) -> Int[Tensor, " G"]:
    """A 64-bit number of each group that tells its ids, with their positions, from others. Two that
    differ have the same with a probability of about 2^-64.
    """
    mixed = ids * _MIX[0] + (position + 1) * _MIX[1]
    for factor in _MIX[1:]:
        mixed = (mixed ^ (mixed >> 31)) * factor
    mixed = mixed ^ (mixed >> 29)
    return torch.zeros(groups, dtype=torch.int64, device=ids.device).index_add_(0, group, mixed)
