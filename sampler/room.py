"""How much of a batch one step reads, fixed on the host before the network runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.cache import Reading
from sampler.layout import Layout
from sampler.logits.row_requests import ALL, Asks, Some
from sampler.transfer import to_device

Segments = tuple[np.ndarray, ...]
"""See ``CachingDenoiser``."""


@dataclass(frozen=True)
class Run:
    """The canvases of a batch that the network reads in one step.

    Attributes:
        tokens: packed positions that it reads.
        ends: where each of these canvases ends among them; on the host, but for a ``bound``.
        positions: which positions of the batch they are; None for all.
        canvases: which canvases of the batch; None for all.
        shift: for each row of logits, how many positions before it are left out; None for none.
        segments: parts of canvases that are read, for networks that keep keys and values (see
            ``CachingDenoiser``); None where canvases are whole.
    """

    tokens: int
    ends: Int[Tensor, " C"]
    positions: Int[Tensor, " S"] | None = None
    canvases: Int[Tensor, " C"] | None = None
    shift: Int[Tensor, " R"] | None = None
    segments: Segments | None = None

    @classmethod
    def of(cls, host: Layout, device: torch.device, counts: np.ndarray) -> Run:
        """The canvases that have rows of logits.

        Args:
            host: the batch's canvases, on the host.
            device: where the network is.
            counts: rows of each canvas.
        """
        run = counts > 0
        lengths = host.lengths.numpy()
        left_out = np.where(run, 0, lengths)
        parts = (
            run[host.canvas.numpy()].nonzero()[0],
            run.nonzero()[0],
            np.repeat(left_out.cumsum() - left_out, counts),
        )
        sizes = [len(part) for part in parts]
        found = to_device(torch.from_numpy(np.concatenate(parts)), device)
        positions, canvases, shift = found.split(sizes)
        ends = torch.from_numpy(lengths[run].cumsum())
        return cls(sizes[0], ends, positions, canvases, shift)

    @classmethod
    def parts_of(
        cls,
        host: Layout,
        device: torch.device,
        reading: Reading,
        rows: Int[np.ndarray, " R"],
        twins: Bool[np.ndarray, " B"] | None = None,
    ) -> Run:
        """The parts of canvases that a step runs.

        Args:
            host: the batch's canvases, on the host.
            device: where the network is.
            reading: the positions.
            rows: positions of the rows of logits.
            twins: the canvases whose unconditional copies are meant; None for the canvases.
        """
        canvas, run, starts = host.canvas.numpy(), reading.run, reading.starts
        if twins is not None:
            run, starts, rows = run & twins[canvas], reading.twins, rows[twins[canvas[rows]]]
        positions = run.nonzero()[0]
        queries = np.bincount(canvas[positions], minlength=host.size)
        canvases = queries.nonzero()[0]
        queries = queries[canvases]
        shift = rows - np.searchsorted(positions, rows)
        parts = (positions, canvases, shift)
        sizes = [len(part) for part in parts]
        found = to_device(torch.from_numpy(np.concatenate(parts)), device)
        at = host.position.numpy()[positions]
        segments = (queries, at, starts[canvases], reading.used[canvases])
        segments += tuple(column[canvases] for column in reading.denoised)
        positions, canvases, shift = found.split(sizes)
        ends = torch.from_numpy(queries.cumsum())
        return cls(len(at), ends, positions, canvases, shift, segments)

    def places(self, at: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """Where the rows of logits lie among the positions that are read."""
        return at if self.shift is None else at - self.shift


@dataclass(frozen=True)
class Room:
    """The sizes that a step is shaped by.

    Attributes:
        asked: places for rows of logits.
        exact: whether each is filled; else their number is a bound.
        longest: rows of one canvas, at most.
        asks: what the rows ask for.
        run: the canvases that are read.
        twins: those read once more without their condition; None for none.
        paired: rows that are read twice.
    """

    asked: int
    exact: bool
    longest: int
    asks: Asks
    run: Run
    twins: Run | None
    paired: Some

    @classmethod
    def of(
        cls,
        host: Layout,
        layout: Layout,
        asks: Asks,
        counts: np.ndarray,
        reading: Reading | None = None,
        marks: Bool[np.ndarray, " T"] | None = None,
    ) -> Room:
        """Room for exactly the rows that are asked for.

        Args:
            host, layout: the canvases, on the host and on the device.
            asks: of each canvas.
            counts: rows of each canvas.
            reading: the positions that are run, where parts of canvases are.
            marks: positions of the rows, on the host; needed with ``reading``.
        """
        rows, device = asks.of_rows(counts), layout.device
        guided, paired = rows.get("guided"), ALL
        twins = None
        if guided is not None and not guided.all():
            paired = to_device(torch.from_numpy(guided.nonzero()[0]), device)
        if reading is None or marks is None:
            run = Run.of(host, device, counts)
            if guided is not None:
                twins = Run.of(host, device, np.where(asks["guided"], counts, 0))
        else:
            of_rows = marks.nonzero()[0]
            run = Run.parts_of(host, device, reading, of_rows)
            if guided is not None:
                twins = Run.parts_of(host, device, reading, of_rows, asks["guided"])
        asked, longest = int(counts.sum()), int(counts.max(initial=0))
        return cls(asked, True, longest, rows, run, twins, paired)

    @property
    def run_tokens(self) -> int:
        """Positions that the network runs, twice where a canvas is."""
        return self.run.tokens + (0 if self.twins is None else self.twins.tokens)

    @classmethod
    def bound(cls, layout: Layout, asks: Asks, asked: int) -> Room:
        """Room for up to ``asked`` rows of whichever canvases: a shape that serves all mixtures of
        requests that ask for the same.
        """
        everything = Run(layout.positions, layout.ends)
        twins = everything if "guided" in asks else None
        longest = min(asked, int(layout.lengths.max()))
        return cls(asked, False, longest, asks.of_all(asked), everything, twins, ALL)


def segments_of(runs: list[Run]) -> Segments | None:
    """The parts of canvases that several runs read, in their order."""
    found = [run.segments for run in runs if run.segments is not None]
    if not found:
        return None
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def offsets_of(runs: list[Run]) -> Int[Tensor, " E"]:
    """Where each canvas begins among the positions of several runs, and where the last ends."""
    base, ends = 0, []
    for run in runs:
        ends.append(run.ends + base if base else run.ends)
        base += run.tokens
    return F.pad(torch.cat(ends) if len(ends) > 1 else ends[0], (1, 0))
