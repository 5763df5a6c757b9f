"""Joint draws of constrained canvases within a step of a batch.

A sampler proposes rows and commits some of them, as ever. Between the two, the tokens of a
constrained canvas are replaced by those of one joint draw over all its open positions, and their
probabilities by those given the language. Whichever of them the sampler commits are part of one
text of the language, so that the canvas can always be completed.

Where the independent draws happen to be a text of the language, they are kept. That is the first
try of rejection sampling; if it fails, the joint draw has the same distribution, so together they
draw exactly. A language that allows everything changes nothing.

Tokens that a sampler would replace are open too. Which ones is decided by the independent draws,
since a joint draw holds only if all of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.constraints.chain import Chain
from sampler.constraints.class_sums import ClassReader, ClassSums
from sampler.constraints.region import Region
from sampler.logits.categorical import sharpness_of
from sampler.logits.row_requests import CERTAINTY, Asks
from sampler.logits.row_stats import RowStats
from sampler.philox import Role, uniforms, uniforms_on_host
from sampler.plan import Rows, Written
from sampler.transfer import to_device


@dataclass(frozen=True)
class Constrained:
    """A canvas of a batch with a constraint, in one step; on the host.

    Attributes:
        region: the language and its positions.
        tokens: of the canvas.
        start: where it begins among the packed positions.
        rows: its rows of logits, among those of its batch.
        seed, step: of the request.
        greedy, tempered: the temperature of the draw is 0, or neither that nor 1.
        top_p, crossing: of the nucleus; 1 for none.
    """

    region: Region
    tokens: np.ndarray
    start: int
    rows: slice
    seed: int
    step: int
    greedy: bool
    tempered: bool
    top_p: float
    crossing: bool

    @classmethod
    def of(cls, batch: CanvasBatch, asks: Asks, counts: np.ndarray) -> list[Constrained]:
        """The constrained canvases of a batch that have rows.

        Args:
            batch: the canvases.
            asks: of each canvas.
            counts: rows of each.
        """
        if not batch.regions:
            return []
        ends, tokens, found = counts.cumsum(), batch.on_host.tokens.numpy(), []
        for b, region in enumerate(batch.regions):
            if region is None or not counts[b]:
                continue
            flags = {n: bool(asks[n][b]) if n in asks else False for n in ("drawn", "tempered")}
            narrow = "narrow" in asks and bool(asks["narrow"][b])
            end = int(batch.host.ends[b])
            start = end - int(batch.lengths[b])
            found.append(
                cls(
                    region=region,
                    tokens=tokens[start:end],
                    start=start,
                    rows=slice(int(ends[b] - counts[b]), int(ends[b])),
                    seed=int(batch.seed[b]),
                    step=int(batch.step[b]),
                    greedy=not flags["drawn"],
                    tempered=flags["tempered"],
                    top_p=float(batch.top_p[b]) if narrow else 1.0,
                    crossing=narrow and "crossing" in asks and bool(asks["crossing"][b]),
                )
            )
        return found

    def reader(self, rows: Rows, base: int) -> tuple[ClassReader, Tensor]:
        """The reader of its rows of logits, and uniforms for the classes of their tokens.

        Args:
            rows: of its batch.
            base: rows of the query before those of the batch.
        """
        position = rows.position[self.rows]
        of_class, within = self._uniforms(position)
        own = slice(base + self.rows.start, base + self.rows.stop)
        narrow = self.top_p < 1.0 and not self.greedy
        heat = rows.settings["temperature"][self.rows]
        reader = ClassReader(
            self.region.automaton,
            own,
            within,
            self.greedy,
            sharpness_of(heat) if self.tempered else None,
            self.top_p if narrow else None,
            self.crossing,
        )
        return reader, of_class

    def _uniforms(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Two of each row, by its position on the canvas; zeros at temperature 0."""
        if self.greedy:
            none = torch.zeros(len(position), dtype=torch.float64, device=position.device)
            return none, none
        if position.device.type == "cpu":
            drawn = uniforms_on_host(self.seed, self.step, position.numpy(), Role.JOINT)
            return torch.from_numpy(drawn[0]), torch.from_numpy(drawn[1])
        seed, step = (torch.full_like(position, value) for value in (self.seed, self.step))
        one, other = uniforms(seed, step, position, Role.JOINT)
        return one, other


@dataclass(frozen=True)
class Draws:
    """The constrained canvases of one batch in a step, and what was read of them.

    Attributes:
        canvases: they.
        readers: of their rows.
        u: uniforms of their rows, for the classes.
    """

    canvases: Sequence[Constrained]
    readers: Sequence[ClassReader]
    u: Sequence[Tensor]

    @classmethod
    def of(cls, canvases: Sequence[Constrained], rows: Rows, base: int) -> Draws:
        """Before the rows are read; see ``Constrained.reader``."""
        made = [canvas.reader(rows, base) for canvas in canvases]
        return cls(canvases, [reader for reader, _ in made], [u for _, u in made])

    def settled(
        self,
        rows: Rows,
        stats: RowStats,
        mask_id: int,
        commit: Callable[[RowStats], Written],
    ) -> tuple[RowStats, RowStats]:
        """The facts of the batch's rows with the tokens of the joint draws.

        Args:
            rows: of the batch.
            stats: read from them.
            mask_id: of the vocabulary.
            commit: the sampler's, by the facts.

        Returns:
            (as the sampler is to take them, as they are told).
        """
        host = _Host.of(rows, stats)
        places = [host.packed[canvas.rows] - canvas.start for canvas in self.canvases]
        here = [c.tokens[at] for c, at in zip(self.canvases, places, strict=True)]
        changed = [np.zeros(len(ids), dtype=bool) for ids in here]
        if any((ids != mask_id).any() for ids in here):
            after = commit(stats).tokens.cpu().numpy()
            now = [after[host.packed[canvas.rows]] for canvas in self.canvases]
            changed = [(ids != new) & (ids != mask_id) for ids, new in zip(here, now, strict=True)]
        for n, canvas in enumerate(self.canvases):
            if host.finite[canvas.rows].all():
                sums, u = self.readers[n].read(), self.u[n].cpu().numpy()
                _draw(canvas, places[n], changed[n], mask_id, sums, u, host)
        return host.stats(stats, rows)


@dataclass
class _Host:
    """Facts of rows, on the host; joint draws write into them.

    Attributes:
        packed: position of each row.
        finite, sample, p_sample, p_current, log_p: as in ``RowStats``.
        fixed: the sampler is to take the row's token.
        drawn: the token is one of a joint draw.
    """

    packed: np.ndarray
    finite: np.ndarray
    sample: np.ndarray
    p_sample: np.ndarray
    p_current: np.ndarray
    log_p: np.ndarray | None
    fixed: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, rows: Rows, stats: RowStats) -> _Host:
        """Copies."""

        def copied(tensor: Tensor) -> np.ndarray:
            return tensor.cpu().numpy().copy()

        none = np.zeros(len(rows.packed), dtype=bool)
        return cls(
            packed=copied(rows.packed),
            finite=copied(stats.finite),
            sample=copied(stats.sample),
            p_sample=copied(stats.p_sample),
            p_current=copied(stats.p_current),
            log_p=None if stats.log_p is None else copied(stats.log_p),
            fixed=none,
            drawn=none.copy(),
        )

    def stats(self, stats: RowStats, rows: Rows) -> tuple[RowStats, RowStats]:
        """See ``Draws.settled``. Tokens that are replaced are sure in the eyes of the sampler, so
        that it takes all of them.
        """
        device = stats.sample.device

        def sent(array: np.ndarray) -> Tensor:
            return to_device(torch.from_numpy(array), device)

        told = replace(stats, sample=sent(self.sample), p_sample=sent(self.p_sample))
        if self.log_p is not None:
            told = replace(told, log_p=sent(self.log_p))
        if stats.certainty is not None and "certainty" in rows.settings:
            by_token = rows.settings["certainty"] == CERTAINTY.index("sample")
            own = by_token & sent(self.drawn)
            told = replace(told, certainty=torch.where(own, told.p_sample, stats.certainty))
        if not self.fixed.any():
            return told, told
        sure, current = self.p_sample.copy(), self.p_current.copy()
        sure[self.fixed], current[self.fixed] = 1.0, 0.0
        return replace(told, p_sample=sent(sure), p_current=sent(current)), told


def _draw(
    canvas: Constrained,
    places: np.ndarray,
    changed: np.ndarray,
    mask_id: int,
    sums: ClassSums,
    u: np.ndarray,
    host: _Host,
) -> None:
    """Draw the open positions of one canvas, and write what follows into ``host``.

    Args:
        canvas: the canvas.
        places: positions of its rows on it.
        changed: rows whose token is to be replaced.
        mask_id: of the vocabulary.
        sums: of its rows.
        u: uniforms of its rows.
        host: facts of all rows.
    """
    region, first = canvas.region, canvas.rows.start
    ids = canvas.tokens[region.begin : region.end]
    inside = (places >= region.begin) & (places < region.end)
    own = inside & ((canvas.tokens[places] == mask_id) | changed)
    stay = np.flatnonzero(inside & ~own)
    host.sample[first + stay] = canvas.tokens[places[stay]]
    open_ = np.flatnonzero(own)
    if not len(open_):
        return
    read, at = first + open_, places[open_] - region.begin
    chain = Chain.of(region.automaton, ids, at, ids == mask_id)
    mass, model, token, log_p = (
        getattr(sums, name)[open_] for name in ("mass", "model", "token", "log_p")
    )
    masses = drawn_by = chain.masses(model)
    if canvas.greedy:
        drawn_by = chain.best(mass)
    elif canvas.tempered or canvas.top_p < 1.0:
        drawn_by = chain.masses(mass)
    states = drawn_by.follow(host.sample[read])
    if states is not None:
        log_of = np.log(host.p_sample[read].clip(min=1e-300))
    else:
        classes, states = drawn_by.draw(None if canvas.greedy else u[open_])
        each = np.arange(len(open_))
        host.sample[read] = token[each, classes]
        log_of = log_p[each, classes]
        if host.log_p is not None:
            host.log_p[read] = log_of
    host.p_sample[read] = np.exp(np.minimum(log_of + masses.log_ratios(states), 0.0))
    host.drawn[read] = True
    host.fixed[read] = changed[open_]
