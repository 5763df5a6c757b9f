"""A step in shapes that are fixed before: everything that it reads lies in one buffer, so that one
recording of its operations serves all steps of its size.

A batch is filled up: with canvases that have no positions, but for the first of them, which has the
positions that are left; with rows of logits that are empty; and behind the positions that the
network runs, with some that belong to no canvas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.cache import FAR, Reading
from sampler.interface import FixedDenoiser, Sampler
from sampler.layout import Layout
from sampler.logits.row_requests import Asks
from sampler.now import Now
from sampler.proposed import Ahead, rows_asked

LEAST_POSITIONS = 256
LEAST_CANVASES = 8
LEAST_RUN = 128
LEAST_ROWS = 64
LEAST_LENGTH = 1024
"""Least sizes. A network takes as long for fewer rows, since its weights have to be read; canvases
and lengths cost next to nothing where they are empty.
"""


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
        run, sequences, longest: positions that the network runs, unconditional copies included,
            the sequences that they are, and positions of one at most.
        used: slots that one attends over at most; 0 where no keys and values are kept.
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
    sequences: int
    longest: int
    used: int
    guided: bool
    guesses: bool
    pinned: bool
    asks: tuple[str, ...]
    columns: tuple[tuple[Any, ...], tuple[Any, ...]]


Pieces = dict[str, np.ndarray]
"""int64 and float64 arrays by name."""
ROW_COLUMNS = {
    *("rows", "finite", "confidence", "noise", "guess", "p_guess"),
    *("log_p", "top_ids", "top_log_p", "entropy", "completed"),
}
"""Names of what ``take`` tells of rows of logits; the rest is of canvases, but for the tokens."""


@dataclass(frozen=True)
class Passed:
    """The positions that the network runs in a step: of canvases, or of parts of them, then of
    their unconditional copies. On the host.

    Attributes:
        source: each one's packed position in the batch, [T]; of a copy, that of the canvas.
        copied: whether it is a copy's, [T].
        position: on its canvas, [T].
        lengths, canvases: of each sequence, its positions, and its canvas in the batch, [S].
        slots: of each position, [T]; None where no keys and values are kept.
        starts, used: the slots that each sequence attends over, [S]; likewise.
    """

    source: np.ndarray
    copied: np.ndarray
    position: np.ndarray
    lengths: np.ndarray
    canvases: np.ndarray
    slots: np.ndarray | None = None
    starts: np.ndarray | None = None
    used: np.ndarray | None = None

    @classmethod
    def whole(cls, host: Layout, runs: Bool[np.ndarray, " B"], copies: int) -> Passed:
        """All positions of some canvases, each ``copies`` times."""
        source, canvases = runs[host.canvas.numpy()].nonzero()[0], runs.nonzero()[0]
        return cls(
            np.tile(source, copies),
            np.repeat(np.arange(copies) > 0, len(source)),
            np.tile(host.position.numpy()[source], copies),
            np.tile(host.lengths.numpy()[canvases], copies),
            np.tile(canvases, copies),
        )

    @classmethod
    def parts(
        cls, host: Layout, reading: Reading, grid: Int[np.ndarray, " B"], copies: int
    ) -> Passed:
        """Some positions of canvases whose keys and values are kept.

        Args:
            host: where the canvases lie.
            reading: the positions.
            grid: positions of a block of block-causal attention, of each canvas; 0 for none. Blocks
                are sequences of their own: they see other keys.
            copies: 2 where unconditional copies are run too.
        """
        canvas, position = host.canvas.numpy(), host.position.numpy()
        source = np.tile(reading.run.nonzero()[0], copies)
        count = len(source) // copies
        copied = np.arange(len(source)) >= count
        of, at = canvas[source], position[source]
        block = at // np.where(grid > 0, grid, FAR)[of]
        begins = np.r_[True, (np.diff(of) != 0) | (np.diff(block) != 0) | np.diff(copied)]
        first = begins.nonzero()[0]
        canvases = of[first]
        begin = np.where(copied[first], reading.twins[canvases], reading.starts[canvases])
        ends = np.where(grid[canvases] > 0, (block[first] + 1) * grid[canvases], FAR)
        return cls(
            source,
            copied,
            at,
            np.diff(np.append(first, len(source))),
            canvases,
            np.where(copied, reading.twins[of], reading.starts[of]) + at,
            begin,
            np.minimum(reading.used[canvases], ends),
        )


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
        passed: the positions that the network runs.
        reading: of canvases whose keys and values are kept; None for others.
    """

    sizes: Sizes
    host: Layout
    tokens: Int[Tensor, " T"]
    now: Now
    following: Now
    asks: Asks
    counts: Int[np.ndarray, " B"]
    passed: Passed
    reading: Reading | None = None

    @classmethod
    def of(cls, network: FixedDenoiser, sampler: Sampler, batch: CanvasBatch) -> FixedStep | None:
        """The next step of a batch. None where it has no fixed shapes: where no row is asked for,
        texts are of a language, only some canvases are guided or cached, or there are too many
        positions.

        Args:
            network: the network.
            sampler: the policy.
            batch: the canvases.
        """
        host, tokens, active = batch.host, batch.mirror, _active(batch)
        if batch.regions or tokens is None:
            return None
        reading, counts = None, np.where(active.numpy(), rows_asked(sampler, batch), 0)
        if not (runs := counts > 0).any():
            return None
        batch = replace(batch, active=active)
        plan = sampler.plan(batch)
        following = sampler.plan(replace(batch, step=batch.step + 1))
        guided = plan.asks.get("guided")
        if guided is not None and not guided[runs].all():
            return None
        copies = 1 if guided is None else 2
        if batch.cached:
            on_host = batch.on_host
            marks = Ahead.of(sampler, on_host).proposed.marks.numpy()
            reading = Reading.of(on_host, marks, sampler.mask_id)
            if reading.denoised or (reading.starts[runs] < 0).any():
                return None
            assert batch.cache is not None
            passed = Passed.parts(host, reading, batch.cache.grid.numpy(), copies)
        else:
            passed = Passed.whole(host, runs, copies)
        sizes = Sizes(
            sampler,
            positions=power_of_two(host.positions + 1, LEAST_POSITIONS),
            canvases=power_of_two(host.size + 1, LEAST_CANVASES),
            rows=rounded_up(int(counts.sum()), LEAST_ROWS, 2),
            run=rounded_up(len(passed.source), LEAST_RUN, 8),
            sequences=power_of_two(len(passed.lengths), LEAST_CANVASES),
            longest=power_of_two(int(passed.lengths.max()), LEAST_LENGTH),
            used=0 if passed.used is None else power_of_two(int(passed.used.max()), LEAST_LENGTH),
            guided=guided is not None,
            guesses=bool(batch.guess.any()),
            pinned=host.pinned is not None,
            asks=tuple(sorted(plan.asks)),
            columns=(_columns(plan.now), _columns(following.now)),
        )
        if not network.fits(sizes.run, reading is not None):
            return None
        settings = plan.now, following.now
        return cls(sizes, host, tokens, *settings, plan.asks, counts, passed, reading)

    def pieces(self) -> Pieces:
        """Everything that the step reads but the network's weights, filled up."""
        sizes = self.sizes
        return {
            **_layout_pieces(self.host, sizes),
            "tokens": _filled(self.tokens.numpy(), sizes.positions, 0),
            **_now_pieces("now", self.now, sizes.canvases),
            **_now_pieces("next", self.following, sizes.canvases),
            **_run_pieces(self.passed, sizes),
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


def _run_pieces(passed: Passed, sizes: Sizes) -> Pieces:
    """Positions that the network runs, and the place of each of the batch among them."""
    count, sequences = len(passed.source), len(passed.lengths)
    offsets = np.concatenate(([0], passed.lengths.cumsum()))
    place = np.zeros((2 if sizes.guided else 1, sizes.positions), dtype=np.int64)
    place[passed.copied.astype(np.int64), passed.source] = np.arange(count)
    copied = passed.copied[offsets[:-1]]
    run = passed.source + passed.copied * sizes.positions
    of = np.repeat(np.arange(sequences), passed.lengths)
    pieces = {
        "run": _filled(run, sizes.run, 0),
        "run_position": _filled(passed.position, sizes.run, 0),
        "sequence": _filled(of, sizes.run, sizes.sequences),
        "run_canvas": _filled(passed.canvases + copied * sizes.canvases, sizes.sequences, 0),
        "offsets": _filled(offsets, sizes.sequences + 1, offsets[-1]),
        "place": place,
    }
    if passed.slots is not None and passed.starts is not None and passed.used is not None:
        pieces["slots"] = _filled(passed.slots, sizes.run, -1)
        pieces["starts"] = _filled(passed.starts, sizes.sequences + 1, 0)
        pieces["used"] = _filled(passed.used, sizes.sequences, 0)
    return pieces
