"""One denoising step of a packed batch, in three parts.

- On the host, each sampler plans: whatever follows from step counts and parameters.
- On the device, it proposes positions, the network runs, and what its logits say is written
  (``take``). Shapes are fixed before (``Room``); no value is asked for on the way.
- The outcome comes back in one copy, and the host settles the step with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.guidance import unconditional
from sampler.logits.row_reader import RowStats, readout
from sampler.logits.row_requests import Asks, RowQuery
from sampler.now import Now
from sampler.outcome import Outcome
from sampler.plan import Plan, Rows, Written
from sampler.room import Room, Run, offsets_of
from sampler.transition import Transition


@runtime_checkable
class Denoiser(Protocol):
    """The part of ``models.interface.Denoiser`` that a step uses; restated here because the sampler
    imports nothing of ``models``.
    """

    @property
    def classes(self) -> int:
        """Labels that it takes, 0 to classes - 1; the null label is ``classes``. 0 takes none."""
        ...

    def trunk(
        self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Packed tokens [T], sequence b at offsets[b]:offsets[b + 1] -> hidden states [R, D] of the
        packed positions ``rows``; with labels [B] where the network takes them.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, V]."""
        ...


@runtime_checkable
class Proposal(Protocol):
    """The part of every sampler's proposal that a step reads: positions whose logits are needed."""

    @property
    def marks(self) -> Bool[Tensor, " T"]:
        """The positions."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A policy: an immutable value without a loop; the caller owns time.

    ``begin``, ``plan`` and ``settled`` look at the batch on the host. ``propose`` decides before
    the network which positions matter, ``query`` what is asked of their rows, and ``commit``
    settles the step with what was read there: these run on the device, on whole arrays, and ask for
    no value. None of them knows of requests.
    """

    @property
    def vocab_size(self) -> int:
        """N, the mask included."""
        ...

    @property
    def mask_id(self) -> int | None:
        """Id of the mask, if there is one."""
        ...

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the end token and the end of a turn, where there are such."""
        ...

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """Draw the canvases' first tokens."""
        ...

    def settled(self, batch: CanvasBatch) -> Int[Tensor, " B"]:
        """Leading positions of each canvas that can no longer change; of a batch on the host."""
        ...

    def plan(self, batch: CanvasBatch) -> Plan:
        """The next step as far as the host knows it; reads no tokens."""
        ...

    def propose(self, layout: Layout, now: Now, tokens: Tensor) -> Any:
        """A ``Proposal`` for the step."""
        ...

    def query(self, layout: Layout, tokens: Tensor, proposal: Any, rows: Rows) -> RowQuery:
        """The questions about the rows that were proposed."""
        ...

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Tensor,
        proposal: Any,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """The tokens one step on."""
        ...


@dataclass(frozen=True)
class StepResult:
    """One step's outcome, on the host but for the batch's tokens.

    Attributes:
        batch: the batch one step on.
        change: what changed.
        forwards: passes of the network over each canvas: 0 where none was needed, 2 under guidance.
        failed: canvases for which the model gave no numbers; their tokens are not to be used.
        head_rows: rows of logits computed.
        settled: leading positions of each canvas that can no longer change.
    """

    batch: CanvasBatch
    change: Transition
    forwards: Int[Tensor, " B"]
    failed: Bool[Tensor, " B"]
    head_rows: int
    settled: Int[Tensor, " B"]


@dataclass(frozen=True)
class Proposed:
    """One sampler's share of a step, on the device.

    Attributes:
        sampler: the policy.
        layout: where its canvases lie.
        now: their settings in the step.
        tokens: ids.
        proposal: the sampler's.
        counts: rows that each canvas asks for.
    """

    sampler: Sampler
    layout: Layout
    now: Now
    tokens: Int[Tensor, " T"]
    proposal: Proposal
    counts: Int[Tensor, " B"]

    @classmethod
    def of(cls, sampler: Sampler, layout: Layout, now: Now, tokens: Tensor) -> Proposed:
        """Let the sampler propose."""
        proposal = sampler.propose(layout, now, tokens)
        return cls(sampler, layout, now, tokens, proposal, layout.counts(proposal.marks))

    def rows(self, room: Room) -> Rows:
        """The proposed positions as rows of logits."""
        return Rows.of(
            self.layout, self.now, self.proposal.marks, room.asked, room.exact, room.longest
        )


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
    """
    plans = [sampler.plan(batch) for sampler, batch in parts]
    proposed = [
        Proposed.of(sampler, batch.layout, plan.now.to(batch.layout.device), batch.tokens)
        for (sampler, batch), plan in zip(parts, plans, strict=True)
    ]
    counts = _fetched([p.counts for p in proposed])
    rooms = [
        Room.of(batch.host, batch.layout, plan.asks, count)
        for (_, batch), plan, count in zip(parts, plans, counts, strict=True)
    ]
    written = take(network, proposed, rooms)
    outcome = Outcome.of([arrays for _, arrays in written]).fetch()
    return [
        settle(sampler, batch, tokens, plan.asks, count, found)
        for (sampler, batch), plan, count, (tokens, _), found in zip(
            parts, plans, counts, written, outcome, strict=True
        )
    ]


def _fetched(counts: Sequence[Tensor]) -> list[np.ndarray]:
    """Numbers of rows on the host, in one copy."""
    together = counts[0] if len(counts) == 1 else torch.cat(list(counts))
    sizes = np.cumsum([len(count) for count in counts])
    return np.split(together.cpu().numpy(), sizes[:-1])


def take(
    network: Denoiser, proposed: Sequence[Proposed], rooms: Sequence[Room]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Run the network for the proposed rows and write what follows; on the device, without a
    question to it.

    Returns:
        for each part its tokens one step on, and all that the host needs to know of the step.
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
    hidden = _run(network, proposed, rooms, rows)
    stats = readout(network.head, hidden, chunks, sampler.vocab_size, sampler.mask_id, sampler.ends)
    results, at = [], 0
    for p, room, r in zip(proposed, rooms, rows, strict=True):
        mine = stats if len(rooms) == 1 else stats.part(slice(at, at + room.asked))
        at += room.asked
        after = p.sampler.commit(p.layout, p.now, p.tokens, p.proposal, r, mine)
        guessed = after.tokens[r.at] == mine.sample
        told = {
            "tokens": after.tokens,
            "rows": r.packed,
            "finite": mine.finite,
            "confidence": torch.where(guessed, mine.p_sample, 0.0),
            **after.columns,
        }
        if mine.log_p is not None and mine.top_ids is not None and mine.top_log_p is not None:
            told |= {"log_p": mine.log_p, "top_ids": mine.top_ids, "top_log_p": mine.top_log_p}
        results.append((after.tokens, told))
    return results


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
    if not network.classes:
        return network.trunk(tokens, offsets, at)
    return network.trunk(tokens, offsets, at, torch.where(labels < 0, network.classes, labels))


def settle(
    sampler: Sampler,
    batch: CanvasBatch,
    tokens: Tensor,
    asks: Asks,
    counts: np.ndarray,
    found: dict[str, np.ndarray],
) -> StepResult:
    """The result of a step, from what came back of it.

    Args:
        sampler: the policy.
        batch: the canvases before the step.
        tokens: after the step, on their device.
        asks: of each canvas.
        counts: rows that each canvas asked for.
        found: as ``take`` returns it, on the host.
    """
    after, rows = found.pop("tokens"), found.pop("rows")
    valid = rows < len(after)
    rows, finite = rows[valid], found.pop("finite")[valid]
    before = batch.on_host.tokens.numpy()
    names = ("confidence", "log_p", "top_ids", "top_log_p")
    told = {n: found.pop(n)[valid] for n in names if n in found}
    change = Transition.between(before, after, sampler.mask_id, rows, told)
    ran = counts > 0
    forwards = ran.astype(np.int64)
    if "guided" in asks:
        forwards += ran & asks["guided"]
    failed = np.zeros(len(counts), dtype=bool)
    failed[batch.host.canvas.numpy()[rows[~finite]]] = True
    own = replace(batch.own, **{n: torch.from_numpy(column) for n, column in found.items()})
    mirror = torch.from_numpy(after)
    moved = replace(batch, tokens=tokens, step=batch.step + 1, own=own, mirror=mirror)
    return StepResult(
        batch=moved,
        change=change,
        forwards=torch.from_numpy(forwards),
        failed=torch.from_numpy(failed),
        head_rows=int(counts.sum()),
        settled=sampler.settled(moved.on_host),
    )
