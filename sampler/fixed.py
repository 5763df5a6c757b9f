"""A step in shapes that are fixed before: everything that it reads lies in one buffer, so that one
recording of its operations serves all steps of its size.

A batch is filled up: with canvases that have no positions, but for the first of them, which has the
positions that are left; with rows of logits that are empty; and behind the positions that the
network runs, with some that belong to no canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.interface import Denoiser, Sampler
from sampler.layout import Layout
from sampler.logits.guidance import unconditional
from sampler.logits.row_requests import ALL, Asks
from sampler.now import Now
from sampler.outcome import Outcome
from sampler.plan import Rows
from sampler.proposed import Proposed
from sampler.room import Room, Run
from sampler.step import take

Packing = tuple[Tensor, Tensor, Tensor, int]
"""See ``FixedDenoiser``."""
LEAST_POSITIONS = 256
LEAST_CANVASES = 8
LEAST_RUN = 128
LEAST_ROWS = 64
LEAST_LENGTH = 1024
"""Least sizes. A network takes as long for fewer rows, since its weights have to be read; canvases
and lengths cost next to nothing where they are empty.
"""


class FixedDenoiser(Denoiser, Protocol):
    """A network that can run in fixed shapes."""

    fixed_shapes: bool

    def trunk_of(
        self, tokens: Tensor, packing: Packing, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """As ``Denoiser.trunk``; nothing is asked of the device.

        Args:
            tokens: ids [T].
            packing: position of each on its canvas [T], the canvas [T], B for those of none; where
                each canvas begins and the last one ends [B + 1] in int32; positions of one at most.
            rows, labels: see there.
        """
        ...


def in_fixed_shapes(network: Denoiser) -> FixedDenoiser | None:
    """The network, if it is one of these."""
    return cast(FixedDenoiser, network) if getattr(network, "fixed_shapes", False) else None


def power_of_two(count: int, least: int) -> int:
    """The first from ``least`` on, itself one, that is not smaller than ``count``."""
    return max(least, 1 << (count - 1).bit_length())


def rounded_up(count: int, least: int, parts: int) -> int:
    """The first size that is not smaller than ``count``: between two powers of two lie ``parts``
    sizes, all multiples of ``least``.
    """
    step = max(least, power_of_two(count, 1) // 2 // parts)
    return max(1, -(-count // step)) * step


@dataclass(frozen=True)
class Sizes:
    """The sizes that a step is recorded in, and all else that its operations depend on.

    Attributes:
        sampler: its policy.
        positions, canvases: of the batch.
        rows: of logits.
        run, longest: positions that the network runs, unconditional copies included, and of one
            canvas at most.
        guided: whether each canvas is run a second time, unconditionally.
        guesses, pinned: whether samples are told for all rows, and tokens may be pinned.
        asks: what any row may ask for.
        columns: names, ends and heights of ``Now`` for this step, and for the next.
    """

    sampler: Sampler
    positions: int
    canvases: int
    rows: int
    run: int
    longest: int
    guided: bool
    guesses: bool
    pinned: bool
    asks: tuple[str, ...]
    columns: tuple[tuple[Any, ...], tuple[Any, ...]]

    @property
    def sequences(self) -> int:
        """Canvases that the network runs at most, unconditional copies included."""
        return self.canvases * (2 if self.guided else 1)


Pieces = dict[str, np.ndarray]
"""int64 and float64 arrays by name."""
ROW_COLUMNS = {
    *("rows", "finite", "confidence", "noise", "guess", "p_guess"),
    *("log_p", "top_ids", "top_log_p", "entropy"),
}
"""Names of what ``take`` tells of rows of logits; the rest is of canvases, but for the tokens."""


@dataclass(frozen=True)
class FixedStep:
    """One step of a batch that is filled up.

    Attributes:
        sizes: to these.
        host: where the canvases of the batch lie.
        tokens: their ids, on the host.
        now, following: settings in the step and in the next.
        asks: of each canvas.
        counts: rows that each asks for.
        run: the canvases that ask for any.
    """

    sizes: Sizes
    host: Layout
    tokens: Int[Tensor, " T"]
    now: Now
    following: Now
    asks: Asks
    counts: Int[np.ndarray, " B"]
    run: Run

    @classmethod
    def of(
        cls, sampler: Sampler, batch: CanvasBatch, counts: Int[np.ndarray, " B"]
    ) -> FixedStep | None:
        """The next step of a batch. None where it has no fixed shapes: where no row is asked for,
        texts are of a language, keys and values are kept, or only some canvases are guided.

        Args:
            sampler: the policy.
            batch: the canvases.
            counts: rows of logits that each asks for.
        """
        host = batch.host
        batch = replace(batch, active=_active(batch))
        assert batch.active is not None
        counts = np.where(batch.active.numpy(), counts, 0)
        runs = counts > 0
        if not runs.any() or batch.regions or batch.cached or batch.mirror is None:
            return None
        plan = sampler.plan(batch)
        following = sampler.plan(replace(batch, step=batch.step + 1))
        guided = plan.asks.get("guided")
        if guided is not None and not guided[runs].all():
            return None
        copies = 1 if guided is None else 2
        run = Run.of(host, torch.device("cpu"), counts)
        sizes = Sizes(
            sampler,
            positions=power_of_two(host.positions + 1, LEAST_POSITIONS),
            canvases=power_of_two(host.size + 1, LEAST_CANVASES),
            rows=rounded_up(int(counts.sum()), LEAST_ROWS, 2),
            run=rounded_up(copies * run.tokens, LEAST_RUN, 8),
            longest=power_of_two(int(host.lengths.numpy()[runs].max()), LEAST_LENGTH),
            guided=guided is not None,
            guesses=bool(batch.guess.any()),
            pinned=host.pinned is not None,
            asks=tuple(sorted(plan.asks)),
            columns=(_columns(plan.now), _columns(following.now)),
        )
        known = batch.mirror, plan.now, following.now
        return cls(sizes, host, *known, plan.asks, counts, run)

    @property
    def run_tokens(self) -> int:
        """Positions that the network runs, twice under guidance."""
        return self.run.tokens * (2 if self.sizes.guided else 1)

    def pieces(self) -> Pieces:
        """Everything that the step reads but the network's weights, filled up."""
        sizes = self.sizes
        return {
            **_layout_pieces(self.host, sizes),
            "tokens": _filled(self.tokens.numpy(), sizes.positions, 0),
            **_now_pieces("now", self.now, sizes.canvases),
            **_now_pieces("next", self.following, sizes.canvases),
            **_run_pieces(self.host, self.run, self.counts, sizes),
        }

    def cut(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A copy of what came back of the step, without what it was filled up with."""
        kept = found["rows"] < self.host.positions
        canvases, positions = slice(self.host.size), slice(self.host.positions)
        cut: dict[str, np.ndarray] = {}
        for name, array in found.items():
            if name in ROW_COLUMNS:
                cut[name] = array[kept]
            else:
                cut[name] = array[positions if name == "tokens" else canvases].copy()
        return cut


def fixed_step(
    network: FixedDenoiser, sizes: Sizes, now: Now, following: Now, given: dict[str, Tensor]
) -> Outcome:
    """Take a step on the device: run the network, write, and count the rows of the next step.

    Args:
        network: the network.
        sizes: of the step.
        now, following: its settings, and those of the next.
        given: the pieces by name.
    """
    of_host = torch.zeros(sizes.canvases, dtype=torch.int64)  # a step on the device reads none
    layout = Layout(
        lengths=of_host,
        canvas=given["canvas"],
        position=given["position"],
        rank=given["rank"],
        editable=given["editable"] != 0,
        ends=given["ends"],
        first=of_host,
        pinned=given["pinned"] != 0 if sizes.pinned else None,
    )
    proposed = Proposed.of(sizes.sampler, layout, now, given["tokens"])
    asks = Asks({name: np.ones(sizes.rows, dtype=bool) for name in sizes.asks})
    room = Room(sizes.rows, False, sizes.rows, asks, Run(sizes.run, of_host), None, ALL)

    def run(rows: Sequence[Rows]) -> Tensor:
        return _hidden(network, sizes, proposed, rows[0], given)

    ((written, told),) = take(network, [proposed], [room], (), [sizes.guesses], run)
    settings = following.with_columns(written.columns)
    told["asked"] = Proposed.of(sizes.sampler, layout, settings, written.tokens).counts
    return Outcome.of([told])


def _hidden(
    network: FixedDenoiser, sizes: Sizes, proposed: Proposed, rows: Rows, given: dict[str, Tensor]
) -> Tensor:
    """Run the network; hidden states of the rows, then of their unconditional twins."""
    assert rows.valid is not None
    tokens, labels = proposed.tokens, proposed.now.of_canvases("label")
    # the first position that is run takes the place of an empty one
    at = torch.where(rows.valid, rows.at - given["left_out"][rows.canvas], 0)
    if sizes.guided:
        bare, none = unconditional(tokens, proposed.layout, labels, proposed.sampler.mask_id)
        tokens, labels = torch.cat((tokens, bare)), torch.cat((labels, none))
        at = torch.cat((at, at + given["twins"]))
    packing = (given["run_position"], given["sequence"], given["offsets"].int(), sizes.longest)
    tokens = tokens[given["run"]]
    if not network.classes:
        return network.trunk_of(tokens, packing, at)
    labels = labels[given["run_canvas"]]
    return network.trunk_of(tokens, packing, at, torch.where(labels < 0, network.classes, labels))


def _active(batch: CanvasBatch) -> Tensor:
    """Of each canvas, whether it takes part."""
    whole = torch.ones(batch.size, dtype=torch.bool)
    return whole if batch.active is None else batch.active


def _columns(now: Now) -> tuple[Any, ...]:
    return now.names, now.ends, len(now.whole), len(now.real)


def _filled(array: np.ndarray, size: int, value: int) -> np.ndarray:
    found = np.full(size, value, dtype=np.int64)
    found[: len(array)] = array
    return found


def _layout_pieces(host: Layout, sizes: Sizes) -> Pieces:
    """Where canvases lie; the first one after those of the batch has the positions left over."""
    count, rest = host.positions, sizes.positions - host.positions
    position = _filled(host.position.numpy(), sizes.positions, 0)
    position[count:] = np.arange(rest)
    pieces = {
        "canvas": _filled(host.canvas.numpy(), sizes.positions, host.size),
        "position": position,
        "rank": _filled(host.rank.numpy(), sizes.positions, -1),
        "editable": _filled(host.editable.numpy(), sizes.positions, 0),
        "ends": _filled(host.ends.numpy(), sizes.canvases, sizes.positions),
    }
    if host.pinned is not None:
        pieces["pinned"] = _filled(host.pinned.numpy(), sizes.positions, 0)
    return pieces


def _now_pieces(name: str, now: Now, canvases: int) -> Pieces:
    """The settings; canvases that fill up have those of the last one, and take no part."""
    whole, real = (m.numpy() for m in (now.whole, now.real))
    more = canvases - whole.shape[1]
    whole, real = (np.pad(m, ((0, 0), (0, more)), mode="edge") for m in (whole, real))
    whole[now.names[0].index("active"), canvases - more :] = 0
    return {f"{name}.whole": whole, f"{name}.real": real}


def _run_pieces(host: Layout, run: Run, counts: np.ndarray, sizes: Sizes) -> Pieces:
    """Positions that the network runs: of canvases that ask for rows, then of their copies."""
    assert run.positions is not None and run.canvases is not None
    positions, canvases = run.positions.numpy(), run.canvases.numpy()
    lengths, copies = host.lengths.numpy(), range(2 if sizes.guided else 1)
    of = np.repeat(np.arange(len(canvases)), lengths[canvases])
    offsets = np.concatenate(([0], np.tile(lengths[canvases], len(copies)).cumsum()))
    left_out = np.where(counts > 0, 0, lengths).cumsum()
    many = {
        "run": (positions, sizes.positions),
        "run_position": (host.position.numpy()[positions], 0),
        "sequence": (of, len(canvases)),
        "run_canvas": (canvases, sizes.canvases),
    }
    joined = {n: np.concatenate([a + c * more for c in copies]) for n, (a, more) in many.items()}
    return {
        "run": _filled(joined["run"], sizes.run, 0),
        "run_position": _filled(joined["run_position"], sizes.run, 0),
        "sequence": _filled(joined["sequence"], sizes.run, sizes.sequences),
        "run_canvas": _filled(joined["run_canvas"], sizes.sequences, 0),
        "offsets": _filled(offsets, sizes.sequences + 1, offsets[-1]),
        "left_out": _filled(left_out, sizes.canvases, 0),
        "twins": np.array([run.tokens]),
    }
