"""Rows of logits by classes of tokens: the mass of each class, and one token drawn within it.

Read chunk by chunk, so that nothing of shape rows x vocabulary outlives its chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sampler.constraints.token_automaton import TokenAutomaton
from sampler.logits.categorical import nucleus
from sampler.transfer import to_device

LEAST = -1e30
"""Logits are raised to this: no token has probability 0, so a text that must be has a mass."""
OUTSIDE = 1e4
"""Nats by which tokens outside the nucleus are less likely: a text has them only where it must."""


@dataclass(frozen=True)
class ClassSums:
    """The classes of R rows. Masses are logarithms; those of a row have one unknown constant.

    Attributes:
        mass: of each class, for the draw; at temperature 0 that of its likeliest token.
        model: of each class, as the model gave it.
        token: one of each class, drawn within it; at temperature 0 the likeliest.
        log_p: the model's log-probability of that token.
    """

    mass: Float[Tensor, "R C"]
    model: Float[Tensor, "R C"]
    token: Int[Tensor, "R C"]
    log_p: Float[Tensor, "R C"]


@dataclass
class ClassReader:
    """Reads the rows of one canvas.

    Attributes:
        automaton: whose classes.
        rows: of the query.
        u: uniforms for the draws within classes, one for each row.
        greedy, tempered: the temperature is 0, or neither that nor 1.
        top_p, crossing: of the nucleus; None where there is none.
    """

    automaton: TokenAutomaton
    rows: slice
    u: Float[Tensor, " R"]
    greedy: bool
    tempered: bool = False
    top_p: float | None = None
    crossing: bool = False
    _parts: list[ClassSums] = field(default_factory=list)
    _raw: tuple[Tensor, _ClassMasses] | None = None

    def within(self, chunk: slice) -> slice | None:
        """Its rows in a chunk of the query, counted from the chunk's first; None for none."""
        first, end = max(self.rows.start, chunk.start), min(self.rows.stop, chunk.stop)
        return slice(first - chunk.start, end - chunk.start) if first < end else None

    def see_raw(self, logits: Float[Tensor, "R W"]) -> None:
        """The model's logits of its rows in a chunk."""
        columns = Columns.of(self.automaton, logits.device)
        ordered = _ordered(logits, columns)
        self._raw = ordered, _ClassMasses.of(ordered, columns)

    def see_drawn(self, logits: Float[Tensor, "R W"], may_ask: bool) -> None:
        """The same rows at the temperature of the draw."""
        assert self._raw is not None
        raw, model = self._raw
        self._raw = None
        columns = Columns.of(self.automaton, raw.device)
        ordered, drawn = raw, model
        if self.tempered:
            ordered = _ordered(logits, columns)
        if self.top_p is not None:
            kept = self._nucleus(ordered, columns, may_ask)
            ordered = torch.where(kept, ordered, ordered - OUTSIDE)
        if ordered is not raw:
            drawn = _ClassMasses.of(ordered, columns)
        done = sum(len(part.mass) for part in self._parts)
        u = self.u[done : done + len(raw)]
        place = drawn.places(None if self.greedy else u, ordered, columns)
        mass = drawn.top.double() if self.greedy else drawn.mass
        log_p = raw.gather(1, place).double() - model.mass.logsumexp(1, keepdim=True)
        self._parts.append(ClassSums(mass, model.mass, columns.order[place], log_p))

    def _nucleus(self, ordered: Tensor, columns: Columns, may_ask: bool) -> Tensor:
        """Which tokens are in the nucleus; ties fall to the lower id."""
        by_id = torch.empty_like(ordered).index_copy_(1, columns.order, ordered)
        weights = (by_id - by_id.amax(1, keepdim=True)).exp()
        top_p = torch.full_like(self.u[: len(ordered)], self.top_p or 1.0)
        crossing = torch.full_like(top_p, self.crossing, dtype=torch.bool)
        return (nucleus(weights, top_p, may_ask, crossing) > 0).index_select(1, columns.order)

    def read(self) -> ClassSums:
        """All its rows."""
        if len(self._parts) == 1:
            return self._parts[0]
        names = ClassSums.__dataclass_fields__
        return ClassSums(**{n: torch.cat([getattr(p, n) for p in self._parts]) for n in names})


@dataclass(frozen=True)
class Columns:
    """The ids of a vocabulary by their classes, on a device.

    Attributes:
        order: ids, sorted by class.
        labels: the class of each of them.
        firsts, lasts: where each class begins and ends among them, both inclusive.
    """

    order: Int[Tensor, " V"]
    labels: Int[Tensor, " V"]
    firsts: Int[Tensor, " C"]
    lasts: Int[Tensor, " C"]

    @classmethod
    def of(cls, automaton: TokenAutomaton, device: torch.device) -> Columns:
        """The columns of an automaton. Its last class is missing where no id belongs to it."""
        found = automaton.on_devices.get(str(device))
        if found is None:
            order = automaton.class_of.argsort(kind="stable")
            sizes = np.bincount(automaton.class_of)
            lasts = sizes.cumsum() - 1
            parts = (order, automaton.class_of[order], lasts - sizes + 1, lasts)
            found = cls(*(to_device(torch.from_numpy(part), device) for part in parts))
            automaton.on_devices[str(device)] = found
        return found


def _ordered(logits: Tensor, columns: Columns) -> Tensor:
    """The logits of rows, the ids by class."""
    return logits.index_select(1, columns.order).clamp_(min=LEAST)


@dataclass(frozen=True)
class _ClassMasses:
    """The classes of some rows.

    Attributes:
        top: the greatest logit of each.
        edges: running sums over ids by class, each id's weight divided by the greatest of its
            class.
        before, upto: of these, where each class begins and ends.
    """

    top: Float[Tensor, "R C"]
    edges: Float[Tensor, "R V"]
    before: Float[Tensor, "R C"]
    upto: Float[Tensor, "R C"]

    @classmethod
    def of(cls, ordered: Tensor, columns: Columns) -> _ClassMasses:
        """Of logits [R, V], ids by class."""
        top = _of_each(ordered, columns, "amax")
        share = (ordered - top.index_select(1, columns.labels)).exp_()
        return cls(top, *_edges(share, columns))

    @property
    def mass(self) -> Float[Tensor, "R C"]:
        """Logarithm of the mass of each class; every class has at least one id of weight 1."""
        return (self.upto - self.before).log_().add_(self.top)

    def places(self, u: Tensor | None, ordered: Tensor, columns: Columns) -> Int[Tensor, "R C"]:
        """One id of each class, by its place: drawn by a uniform a row, or the likeliest."""
        edges, before, upto = self.edges, self.before, self.upto
        if u is None:
            likeliest = ordered == self.top.index_select(1, columns.labels)
            places = torch.arange(ordered.shape[1], device=ordered.device, dtype=torch.int32)
            found = torch.where(likeliest, places, ordered.shape[1])
            return _of_each(found, columns, "amin").long()
        target = before + u[:, None] * (upto - before)
        place = torch.searchsorted(edges, target, right=True)
        return torch.minimum(torch.maximum(place, columns.firsts), columns.lasts)


def _of_each(numbers: Tensor, columns: Columns, what: Literal["amax", "amin"]) -> Tensor:
    """The greatest or the least of each class, [R, V] -> [R, C]; ids by class."""
    if numbers.device.type == "cpu":  # half of the time
        reduce = np.maximum if what == "amax" else np.minimum
        return torch.from_numpy(reduce.reduceat(numbers.numpy(), columns.firsts.numpy(), axis=1))
    labels = columns.labels.expand(len(numbers), -1)
    room = numbers.new_empty(len(numbers), len(columns.lasts))
    return room.scatter_reduce_(1, labels, numbers, what, include_self=False)


def _edges(weights: Tensor, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
    """The last three of ``_ClassMasses``."""
    edges = weights.cumsum(1, dtype=torch.float64)
    upto = edges.index_select(1, columns.lasts)
    return edges, F.pad(upto[:, :-1], (1, 0)), upto
