"""One denoising step of a packed batch: propose, run the network where it is asked, commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.guidance import unconditional
from sampler.logits.row_reader import RowStats, readout
from sampler.logits.row_requests import RowQuery
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
    """What every sampler's proposal says: the rows it needs and what it asks of them."""

    @property
    def rows(self) -> Tensor:
        """Packed positions whose logits are needed, [R]."""
        ...

    @property
    def query(self) -> RowQuery:
        """What is asked of each of them."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A policy: an immutable value without a loop; the caller owns time.

    ``propose`` decides before the network which rows matter; ``commit`` settles the step with what
    was read there. Both look at whole arrays; neither knows of requests.
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
        """Ids of the end token and the end of a turn, as far as there are such."""
        ...

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """Draw the canvases' first tokens."""
        ...

    def settled(self, batch: CanvasBatch) -> Int[Tensor, " B"]:
        """Leading positions of each canvas that can no longer change, [B]."""
        ...

    def propose(self, batch: CanvasBatch) -> Any:
        """A ``Proposal`` for the batch's next step."""
        ...

    def commit(
        self, batch: CanvasBatch, proposal: Any, stats: RowStats
    ) -> tuple[CanvasBatch, Transition]:
        """The batch one step on, and what changed."""
        ...


@dataclass(frozen=True)
class StepResult:
    """One step's outcome.

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
    asked = [_Asked(sampler, batch, sampler.propose(batch)) for sampler, batch in parts]
    inputs = [a.canvases() for a in asked] + [a.copies() for a in asked]
    sampler = parts[0][0]
    chunks = RowQuery.joined([a.proposal.query for a in asked]).chunks(sampler.vocab_size)
    hidden = _run(network, inputs)
    stats = readout(network.head, hidden, chunks, sampler.vocab_size, sampler.mask_id, sampler.ends)

    results, at = [], 0
    for a in asked:
        count = a.proposal.rows.numel()
        results.append(a.settle(stats.part(slice(at, at + count))))
        at += count
    return results


@dataclass(frozen=True)
class _Inputs:
    """Canvases for the network: packed tokens, their lengths and labels, and the rows wanted."""

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True)
class _Asked:
    """One sampler's share of a step."""

    sampler: Sampler
    batch: CanvasBatch
    proposal: Proposal

    def canvases(self) -> _Inputs:
        """The canvases with a proposed row."""
        return self._holding(self.proposal.rows, self.batch.tokens, self.batch.label)

    def copies(self) -> _Inputs:
        """Once more those under guidance, without their label or prompt."""
        return self._holding(self._guided(), *unconditional(self.batch, self.sampler.mask_id))

    def _guided(self) -> Tensor:
        return self.proposal.rows[self.proposal.query.guidance_scale != 1.0]

    def _holding(self, rows: Tensor, tokens: Tensor, labels: Tensor) -> _Inputs:
        canvas, _ = self.batch.owner
        run = self._flags(rows)
        kept = run[canvas]
        places = (kept.cumsum(0) - 1)[rows]
        return _Inputs(tokens[kept], self.batch.lengths[run], labels[run], places)

    def _flags(self, rows: Tensor) -> Tensor:
        """[B], true for the canvases that hold one of the rows."""
        canvas, _ = self.batch.owner
        flags = torch.zeros(self.batch.size, dtype=torch.bool, device=rows.device)
        flags[canvas[rows]] = True
        return flags

    def settle(self, stats: RowStats) -> StepResult:
        """Commit, and say what it took."""
        rows = self.proposal.rows
        after, change = self.sampler.commit(self.batch, self.proposal, stats)
        return StepResult(
            batch=after,
            change=change,
            forwards=self._flags(rows).long() + self._flags(self._guided()),
            failed=self._flags(rows[~stats.finite]),
            head_rows=rows.numel(),
            settled=self.sampler.settled(after),
        )


def _run(network: Denoiser, inputs: Sequence[_Inputs]) -> Tensor:
    """Run the network once over all inputs; hidden states of all rows, in order."""
    tokens, lengths, labels = (
        torch.cat([getattr(i, n) for i in inputs]) for n in ("tokens", "lengths", "labels")
    )
    if not tokens.numel():
        return torch.zeros(0, 1, device=tokens.device)
    starts = accumulate((i.tokens.numel() for i in inputs), initial=0)
    rows = torch.cat([i.rows + start for i, start in zip(inputs, starts, strict=False)])
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    if not network.classes:
        return network.trunk(tokens, offsets, rows)
    labels = torch.where(labels < 0, network.classes, labels)
    return network.trunk(tokens, offsets, rows, labels)
