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
from sampler.packing import joined
from sampler.transfer import to_device

LEAST = -1e30
"""Logits are raised to this: no token has probability 0, so a text that must be has a mass."""
OUTSIDE = 1e4
"""Nats by which tokens outside the nucleus are less likely: a text has them only where it must."""


@dataclass(frozen=True)
class ClassSums:
    """The classes of R rows, on the host.

    Attributes:
        mass: logarithm of the mass of each class, for the draw; at temperature 0 that of its
            likeliest token. Those of a row have one unknown constant.
        model: log-probability of each class, as the model gave it.
        token: one of each class, drawn within it; at temperature 0 the likeliest.
        log_p: the model's log-probability of that token.
    """

    mass: Float[np.ndarray, "R C"]
    model: Float[np.ndarray, "R C"]
    token: Int[np.ndarray, "R C"]
    log_p: Float[np.ndarray, "R C"]


@dataclass(frozen=True)
class _Part:
    """The classes of the rows of one chunk, on their device.

    Attributes:
        top, sums: of the classes, as the model gave them; see ``_Classes``.
        drawn_top, drawn_sums: the same of the distribution that is drawn from, if that is another.
        token: one of each class.
        logit: the model's, of that token.
    """

    top: Float[Tensor, "R C"]
    sums: Float[Tensor, "R C"]
    drawn_top: Float[Tensor, "R C"]
    drawn_sums: Float[Tensor, "R C"]
    token: Int[Tensor, "R C"]
    logit: Float[Tensor, "R C"]


@dataclass
class ClassReader:
    """Reads the rows of one canvas.

    Attributes:
        automaton: whose classes.
        rows: of the query.
        u: uniforms for the draws within classes, one for each row.
        greedy: the temperature is 0.
        sharpness: the inverse temperature of each row; None where it is 0 or 1.
        top_p, crossing: of the nucleus; None where there is none.
    """

    automaton: TokenAutomaton
    rows: slice
    u: Float[Tensor, " R"]
    greedy: bool
    sharpness: Float[Tensor, " R"] | None = None
    top_p: float | None = None
    crossing: bool = False
    _parts: list[_Part] = field(default_factory=list)

    def within(self, chunk: slice) -> slice | None:
        """Its rows in a chunk of the query, counted from the chunk's first; None for none."""
        first, end = max(self.rows.start, chunk.start), min(self.rows.stop, chunk.stop)
        return slice(first - chunk.start, end - chunk.start) if first < end else None

    def see(self, logits: Float[Tensor, "R W"], may_ask: bool) -> None:
        """The model's logits of its rows in a chunk."""
        columns = Columns.of(self.automaton, logits.device)
        ordered = logits.index_select(1, columns.order).clamp_(min=LEAST)
        done = sum(len(part.top) for part in self._parts)
        rows = slice(done, done + len(logits))
        narrowed = self._narrowed(ordered, columns, rows, may_ask)
        model = drawn = _Classes.of(ordered, columns)
        if narrowed is not None:
            drawn = _Classes.of(narrowed, columns)
        elif self.sharpness is not None:
            drawn = model.sharper(self.sharpness[rows, None])
        if self.greedy:
            place = model.likeliest(columns)
            drawn_sums = sums = model.sums(columns)
        else:
            place, drawn_sums = drawn.draw(self.u[rows], columns)
            sums = drawn_sums if drawn is model else model.sums(columns)
        token = columns.order[place]
        logit = logits.gather(1, token).clamp_(min=LEAST)
        self._parts.append(_Part(model.top, sums, drawn.top, drawn_sums, token, logit))

    def _narrowed(
        self, ordered: Tensor, columns: Columns, rows: slice, may_ask: bool
    ) -> Tensor | None:
        """Logits at the temperature of the draw, less outside the nucleus; None without one."""
        if self.top_p is None:
            return None
        if self.sharpness is not None:
            ordered = ordered * self.sharpness[rows, None]
        kept = self._nucleus(ordered, columns, self.top_p, may_ask)
        return torch.where(kept, ordered, ordered - OUTSIDE)

    def _nucleus(self, ordered: Tensor, columns: Columns, top_p: float, may_ask: bool) -> Tensor:
        """Which tokens are in the nucleus; ties fall to the lower id."""
        by_id = torch.empty_like(ordered).index_copy_(1, columns.order, ordered)
        weights = (by_id - by_id.amax(1, keepdim=True)).exp()
        shares = torch.full_like(self.u[: len(ordered)], top_p)
        crossing = torch.full_like(shares, self.crossing, dtype=torch.bool)
        return (nucleus(weights, shares, may_ask, crossing) > 0).index_select(1, columns.order)

    def read(self) -> ClassSums:
        """All its rows."""
        names = _Part.__dataclass_fields__
        read = {n: joined([getattr(part, n) for part in self._parts]).cpu().numpy() for n in names}
        model = np.log(read["sums"].astype(np.float64)) + read["top"]
        mass = model
        if self.greedy:
            mass = read["top"].astype(np.float64)
        elif self._parts[0].drawn_sums is not self._parts[0].sums:
            mass = np.log(read["drawn_sums"]) + read["drawn_top"]
        highest = model.max(1, keepdims=True)
        total = highest + np.log(np.exp(model - highest).sum(1, keepdims=True))
        return ClassSums(mass, model - total, read["token"], read["logit"] - total)


@dataclass(frozen=True)
class Columns:
    """The ids of a vocabulary by their classes, on a device.

    Attributes:
        order: ids, sorted by class.
        labels: the class of each of them.
        firsts, lasts: where each class begins and ends among them, both inclusive.
        several: the classes of more than one id.
        several_firsts, several_lasts: of these.
    """

    order: Int[Tensor, " V"]
    labels: Int[Tensor, " V"]
    firsts: Int[Tensor, " C"]
    lasts: Int[Tensor, " C"]
    several: Int[Tensor, " S"]
    several_firsts: Int[Tensor, " S"]
    several_lasts: Int[Tensor, " S"]

    @classmethod
    def of(cls, automaton: TokenAutomaton, device: torch.device) -> Columns:
        """The columns of an automaton. Its last class is missing where no id belongs to it."""
        found = automaton.on_devices.get(str(device))
        if found is None:
            order, sizes = automaton.order, np.bincount(automaton.class_of)
            lasts = sizes.cumsum() - 1
            firsts, several = lasts - sizes + 1, np.flatnonzero(sizes > 1)
            parts = (order, automaton.class_of[order], firsts, lasts)
            parts = (*parts, several, firsts[several], lasts[several])
            found = cls(*(to_device(torch.from_numpy(part), device) for part in parts))
            automaton.on_devices[str(device)] = found
        return found


@dataclass(frozen=True)
class _Classes:
    """The classes of some rows. ``sums`` and ``draw`` use up ``below``.

    Attributes:
        top: the greatest logit of each.
        below: each logit less the greatest of its class; ids by class.
    """

    top: Float[Tensor, "R C"]
    below: Float[Tensor, "R V"]

    @classmethod
    def of(cls, ordered: Tensor, columns: Columns) -> _Classes:
        """Of logits [R, V], ids by class; in their place."""
        top = _of_each(ordered, columns, "amax")
        return cls(top, ordered.sub_(_spread(top, columns)))

    def sharper(self, sharpness: Float[Tensor, "R 1"]) -> _Classes:
        """The classes of logits times ``sharpness``."""
        return _Classes((self.top * sharpness).clamp_(min=LEAST), self.below * sharpness)

    def sums(self, columns: Columns) -> Float[Tensor, "R C"]:
        """Sum of the weights of each class; the greatest weight in it is 1."""
        weights = self.below.exp_()
        if weights.device.type == "cpu":  # half of the time of running sums; pairwise, in fp32
            firsts = columns.firsts.numpy()
            return torch.from_numpy(np.add.reduceat(weights.numpy(), firsts, axis=1))
        return _edges(weights, columns)[1]

    def draw(self, u: Tensor, columns: Columns) -> tuple[Int[Tensor, "R C"], Float[Tensor, "R C"]]:
        """The place of an id of each class, drawn by a uniform a row; and ``sums``."""
        edges, sums, before = _edges(self.below.exp_(), columns)
        target = torch.addcmul(before, sums, u[:, None]).index_select(1, columns.several)
        place = torch.searchsorted(edges, target, right=True)
        place.clamp_(columns.several_firsts, columns.several_lasts)
        places = columns.firsts.repeat(len(u), 1).index_copy_(1, columns.several, place)
        return places, sums

    def likeliest(self, columns: Columns) -> Int[Tensor, "R C"]:
        """The place of the likeliest id of each class; of the first of equals. Of some id where
        logits are not numbers.
        """
        count = self.below.shape[1]
        if self.below.device.type == "cpu":  # half of the time
            row, place = np.divmod(np.flatnonzero(self.below.numpy() == 0), count)
            of_class = row * len(columns.lasts) + columns.labels.numpy()[place]
            firsts = place[np.diff(of_class, prepend=-1) != 0]
            if len(firsts) == self.top.numel():
                return torch.from_numpy(firsts).view_as(self.top)
        places = torch.arange(count, device=self.below.device, dtype=torch.int32)
        found = torch.where(self.below == 0, places, count)
        return _of_each(found, columns, "amin").long().clamp_(max=count - 1)


def _spread(of_classes: Tensor, columns: Columns) -> Tensor:
    """Numbers of classes [R, C] at each of their ids, [R, V]; ids by class."""
    if of_classes.device.type == "cpu":  # half of the time
        sizes = (columns.lasts - columns.firsts + 1).numpy()
        return torch.from_numpy(np.repeat(of_classes.numpy(), sizes, axis=1))
    return of_classes.index_select(1, columns.labels)


def _of_each(numbers: Tensor, columns: Columns, what: Literal["amax", "amin"]) -> Tensor:
    """The greatest or the least of each class, [R, V] -> [R, C]; ids by class."""
    if numbers.device.type == "cpu":  # half of the time
        reduce = np.maximum if what == "amax" else np.minimum
        return torch.from_numpy(reduce.reduceat(numbers.numpy(), columns.firsts.numpy(), axis=1))
    labels = columns.labels.expand(len(numbers), -1)
    room = numbers.new_empty(len(numbers), len(columns.lasts))
    return room.scatter_reduce_(1, labels, numbers, what, include_self=False)


def _edges(weights: Tensor, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
    """(running sums of weights over ids by class [R, V], the sum of each class [R, C], the running
    sum before it).
    """
    edges = weights.cumsum(1, dtype=torch.float64)
    upto = edges.index_select(1, columns.lasts)
    before = F.pad(upto[:, :-1], (1, 0))
    return edges, upto - before, before
