"""One denoising step of a packed batch, in three parts.

- On the host, each sampler plans: whatever follows from step counts and parameters.
- On the device, it proposes positions, the network runs, and what its logits say is written
  (``take``). Shapes are fixed before (``Room``); no value is asked for on the way.
- The outcome comes back in one copy, and the host settles the step with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.cache import Reading
from sampler.constraints.joint import Constrained, Draws
from sampler.interface import CachingDenoiser, Denoiser, Sampler, self_conditioned
from sampler.logits.guidance import unconditional
from sampler.logits.head import least_rows
from sampler.logits.row_reader import readout
from sampler.logits.row_requests import Asks, RowQuery
from sampler.outcome import Outcome
from sampler.packing import joined
from sampler.plan import Rows, Written
from sampler.proposed import Ahead, Proposed, rows_asked
from sampler.room import Room, Run, offsets_of, segments_of
from sampler.transition import Completed, Guesses, Transition


@dataclass(frozen=True)
class StepResult:
    """One step's outcome, on the host but for the batch's tokens.

    Attributes:
        batch: the batch one step on.
        change: what changed.
        forwards: passes of the network over each canvas: 0 where none was needed, 2 under guidance.
        failed: canvases for which the model gave no numbers; their tokens are not to be used.
        head_rows: rows of logits computed.
        run: positions that the network ran, those of unconditional copies included.
        kept: the other positions of the same canvases and copies, whose keys and values were kept.
        settled: leading positions of each canvas that can no longer change.
    """

    batch: CanvasBatch
    change: Transition
    forwards: Int[Tensor, " B"]
    failed: Bool[Tensor, " B"]
    head_rows: int
    run: int
    kept: int
    settled: Int[Tensor, " B"]


TakeSteps = Callable[[Denoiser, Sequence[tuple[Sampler, CanvasBatch]]], list[StepResult]]
"""``take_steps``, or that of ``graphs.StepGraphs``."""


def take_step(sampler: Sampler, network: Denoiser, batch: CanvasBatch) -> StepResult:
    """Advance every canvas of one batch by one step; see ``take_steps``."""
    return take_steps(network, [(sampler, batch)])[0]


@torch.inference_mode()
def take_steps(network: Denoiser, parts: Sequence[tuple[Sampler, CanvasBatch]]) -> list[StepResult]:
    """Advance every canvas by one step: each sampler proposes, the network runs once for all of
    them, each sampler commits.

    Canvases with no proposed row are not run: networks here take no time input, and the canvas that
    they would read has not changed. Canvases under guidance are run twice, with and without their
    label or prompt.

    On a device other than the CPU each sampler also proposes for the step after, and the numbers of
    rows come back with the outcome: the host waits once.
    """
    begun = [batch.ahead or Ahead.of(sampler, batch) for sampler, batch in parts]
    counts = [rows_asked(*part, ahead) for part, ahead in zip(parts, begun, strict=True)]
    readings = readings_of(parts, begun, counts)
    rooms = [
        Room.of(batch.host, batch.layout, ahead.asks, count, *reading)
        for (_, batch), ahead, count, reading in zip(parts, begun, counts, readings, strict=True)
    ]
    constrained = [
        Constrained.of(batch, ahead.asks, count)
        for (_, batch), ahead, count in zip(parts, begun, counts, strict=True)
    ]
    guesses = [bool(batch.guess.any()) for _, batch in parts]
    written = take(network, [ahead.proposed for ahead in begun], rooms, constrained, guesses)
    moved: list[CanvasBatch] = []
    for (sampler, batch), (after, told) in zip(parts, written, strict=True):
        ahead = None
        if batch.layout.device.type != "cpu":
            ahead = Ahead.after(sampler, batch, after)
            told["asked"] = ahead.proposed.counts
        moved.append(replace(batch, tokens=after.tokens, step=batch.step + 1, ahead=ahead))
    moved = [
        batch if reading is None else reading.taken(batch)
        for batch, (reading, _) in zip(moved, readings, strict=True)
    ]
    outcome = Outcome.of([told for _, told in written]).fetch()
    return [
        settle(sampler, batch, after, ahead.asks, count, found, room.run_tokens)
        for (sampler, batch), after, ahead, count, found, room in zip(
            parts, moved, begun, counts, outcome, rooms, strict=True
        )
    ]


def readings_of(
    parts: Sequence[tuple[Sampler, CanvasBatch]],
    begun: Sequence[Ahead],
    counts: Sequence[np.ndarray],
) -> list[tuple[Reading | None, np.ndarray | None]]:
    """For each part, the positions that a step runs and those whose logits are read, on the host;
    None where all canvases of the step are whole.
    """
    if not any(batch.cached for _, batch in parts):
        return [(None, None)] * len(parts)
    found: list[tuple[Reading | None, np.ndarray | None]] = []
    for (sampler, batch), ahead, count in zip(parts, begun, counts, strict=True):
        on_host = batch.on_host
        if batch.layout is not batch.host:
            ahead = Ahead.of(sampler, on_host)
        marks = ahead.proposed.marks.numpy()
        if batch.cached:
            found.append((Reading.of(on_host, marks, sampler.mask_id), marks))
        else:
            found.append((Reading.whole(batch.host, count), marks))
    return found


def take(
    network: Denoiser,
    proposed: Sequence[Proposed],
    rooms: Sequence[Room],
    constrained: Sequence[Sequence[Constrained]] = (),
    guesses: Sequence[bool] = (),
    run: Callable[[Sequence[Rows]], Tensor] | None = None,
) -> list[tuple[Written, dict[str, Tensor]]]:
    """Run the network for the proposed rows and write what follows; on the device, without a
    question to it, unless texts of a language are drawn.

    Args:
        network: the network.
        proposed: of each part.
        rooms: of each part.
        constrained: canvases of each part whose text is of a language; none where missing.
        guesses: parts whose samples are told for all rows, written or not; none where missing.
        run: runs the network for the rows of each part, in place of what ``rooms`` say; gives the
            hidden states of all rows, then of their twins.

    Returns:
        for each part what it wrote, and all that the host needs to know of the step.
    """
    rows = [p.rows(room) for p, room in zip(proposed, rooms, strict=True)]
    queries = [
        p.sampler.query(p.layout, p.tokens, p.proposal, r)
        for p, r in zip(proposed, rows, strict=True)
    ]
    sampler = proposed[0].sampler
    asks = Asks.joined([(room.asks, room.asked) for room in rooms])
    chunks = RowQuery.joined(queries).chunks(
        sampler.vocab_size, asks, all(room.exact for room in rooms)
    )
    bases = [sum(room.asked for room in rooms[:n]) for n in range(len(rooms))]
    draws = [Draws.of(*of_part) for of_part in zip(constrained or [()], rows, bases, strict=False)]
    readers = [reader for of_part in draws for reader in of_part.readers]
    hidden = _run(network, proposed, rooms, rows) if run is None else run(rows)
    memory = self_conditioned(network) if rooms[0].run.segments is not None else None
    stats = readout(
        network.head,
        hidden,
        chunks,
        sampler.vocab_size,
        sampler.mask_id,
        sampler.ends,
        readers,
        least_rows(network),
        None if memory is None else memory.expected,
    )
    if memory is not None and stats.expected is not None:
        slots, phases = (joined(list(found)) for found in zip(*map(_remembered, rows), strict=True))
        memory.remember(slots, phases, stats.expected)
    results = []
    for n, (p, room, r, at) in enumerate(zip(proposed, rooms, rows, bases, strict=True)):
        mine = stats if len(rooms) == 1 else stats.part(slice(at, at + room.asked))
        commit = partial(p.sampler.commit, p.layout, p.now, p.tokens, p.proposal, r)
        taken = mine
        if constrained and constrained[n]:
            assert p.sampler.mask_id is not None
            taken, mine = draws[n].settled(r, mine, p.sampler.mask_id, commit)
        after = commit(taken)
        if p.active is not None:
            kept = torch.where(p.active, after.tokens, p.tokens)
            after = replace(after, tokens=kept)
        guessed = after.tokens[r.at] == mine.sample
        told = {
            "tokens": after.tokens,
            "rows": r.packed,
            "finite": mine.finite,
            "confidence": torch.where(guessed, mine.p_sample, 0.0),
            **after.columns,
        }
        if after.noise is not None:
            told["noise"] = after.noise
        if guesses and guesses[n]:
            told |= {"guess": mine.sample, "p_guess": mine.p_sample}
        if mine.log_p is not None and mine.top_ids is not None and mine.top_log_p is not None:
            told |= {"log_p": mine.log_p, "top_ids": mine.top_ids, "top_log_p": mine.top_log_p}
            if after.completed is not None:
                told["completed"] = after.completed
            if mine.told_entropy is not None:
                told["entropy"] = mine.told_entropy
        results.append((after, told))
    return results


def _remembered(rows: Rows) -> tuple[Tensor, Tensor]:
    """Slots of rows, -1 for empty places, and the phase of the pass that shall read them."""
    slots = rows.settings["slot"] + rows.position
    if rows.valid is not None:
        slots = torch.where(rows.valid, slots, -1)
    return slots, rows.settings["phase"] + 1


def _run(
    network: Denoiser, proposed: Sequence[Proposed], rooms: Sequence[Room], rows: Sequence[Rows]
) -> Tensor:
    """Run the network once for all parts; hidden states of all rows, then of their twins."""
    runs: list[Run] = []
    inputs: list[tuple[Tensor, Tensor]] = []
    places: list[Tensor] = []
    base = 0
    for twins in (False, True):
        for p, room, r in zip(proposed, rooms, rows, strict=True):
            run = room.twins if twins else room.run
            if run is None or not run.tokens:
                continue
            tokens, labels, at = p.tokens, p.now.of_canvases("label"), r.at
            if twins:
                tokens, labels = unconditional(tokens, p.layout, labels, p.sampler.mask_id)
                at = at[room.paired]
            if run.positions is not None:
                tokens = tokens[run.positions]
            if run.canvases is not None and network.classes:
                labels = labels[run.canvases]
            inputs.append((tokens, labels))
            found = run.places(at)
            places.append(found + base if base else found)
            runs.append(run)
            base += run.tokens
    if not runs:
        return proposed[0].tokens.new_zeros(0, 1, dtype=torch.float32)
    one = len(runs) == 1
    tokens, labels = inputs[0] if one else (torch.cat(t) for t in zip(*inputs, strict=True))
    at = places[0] if one else torch.cat(places)
    offsets = offsets_of(runs)
    labels = torch.where(labels < 0, network.classes, labels) if network.classes else None
    if (segments := segments_of(runs)) is not None:
        return cast(CachingDenoiser, network).trunk(tokens, offsets, at, labels, segments)
    if labels is None:
        return network.trunk(tokens, offsets, at)
    return network.trunk(tokens, offsets, at, labels)


def settle(
    sampler: Sampler,
    batch: CanvasBatch,
    moved: CanvasBatch,
    asks: Asks,
    counts: np.ndarray,
    found: dict[str, np.ndarray],
    run: int,
) -> StepResult:
    """The result of a step, from what came back of it.

    Args:
        sampler: the policy.
        batch: the canvases before the step.
        moved: after it, but for what only the device knew.
        asks: of each canvas.
        counts: rows that each canvas asked for.
        found: as ``take`` returns it, on the host.
        run: positions that the network ran.
    """
    after, rows = found.pop("tokens"), found.pop("rows")
    valid = rows < len(after)
    rows, finite = rows[valid], found.pop("finite")[valid]
    before = batch.on_host.tokens.numpy()
    names = ("confidence", "log_p", "top_ids", "top_log_p", "entropy")
    told = {n: found.pop(n)[valid] for n in names if n in found}
    completed = None
    if "completed" in found:
        which = found.pop("completed")[valid]
        completed = Completed.of(rows, {n: told.pop(n) for n in names[1:]}, which)
    guesses = None
    if "guess" in found and sampler.mask_id is not None:
        ids, p = found.pop("guess")[valid], found.pop("p_guess")[valid]
        wanted = batch.guess.numpy()[batch.host.canvas.numpy()[rows]]
        open_ = wanted & (after[rows] == sampler.mask_id)
        guesses = Guesses.of(rows[open_], ids[open_], p[open_])
    noise = None
    if "noise" in found:
        known = np.ones_like(before, dtype=bool) if batch.noise is None else batch.noise
        noise = known, known.copy()
        noise[1][rows] = found.pop("noise")[valid]
        moved = replace(moved, noise=noise[1])
    change = Transition.between(before, after, sampler.mask_id, rows, told, noise)
    change = replace(change, guesses=guesses, completed=completed)
    ran = counts > 0
    forwards = ran.astype(np.int64)
    if "guided" in asks:
        forwards += ran & asks["guided"]
    failed = np.zeros(len(counts), dtype=bool)
    failed[batch.host.canvas.numpy()[rows[~finite]]] = True
    asked = found.pop("asked", None)
    if found:
        own = replace(batch.own, **{n: torch.from_numpy(column) for n, column in found.items()})
        moved = replace(moved, own=own)
    moved = replace(moved, mirror=torch.from_numpy(after), asked=asked)
    return StepResult(
        batch=moved,
        change=change,
        forwards=torch.from_numpy(forwards),
        failed=torch.from_numpy(failed),
        head_rows=int(counts.sum()),
        run=run,
        kept=int((batch.lengths.numpy() * forwards).sum()) - run,
        settled=sampler.settled(moved.on_host),
    )
