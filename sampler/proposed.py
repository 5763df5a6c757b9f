"""The part of a step that comes before the network: which positions ask for logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.interface import Proposal, Sampler
from sampler.layout import Layout
from sampler.logits.row_requests import Asks
from sampler.now import Now
from sampler.plan import Rows, Written
from sampler.room import Room


@dataclass(frozen=True)
class Proposed:
    """One sampler's share of a step, on the device.

    Attributes:
        sampler: the policy.
        layout: where its canvases lie.
        now: their settings in the step.
        tokens: ids.
        proposal: the sampler's.
        marks: positions that ask for logits.
        active: positions that may change; None for all.
    """

    sampler: Sampler
    layout: Layout
    now: Now
    tokens: Int[Tensor, " T"]
    proposal: Proposal
    marks: Bool[Tensor, " T"]
    active: Bool[Tensor, " T"] | None

    @classmethod
    def of(cls, sampler: Sampler, layout: Layout, now: Now, tokens: Tensor) -> Proposed:
        """Let the sampler propose."""
        proposal = sampler.propose(layout, now, tokens)
        marks, active = proposal.marks, None
        if "active" in now.names[0]:
            active = (now.of_canvases("active") != 0)[layout.canvas]
            marks = marks & active
        return cls(sampler, layout, now, tokens, proposal, marks, active)

    @property
    def counts(self) -> Int[Tensor, " B"]:
        """Rows that each canvas asks for."""
        return self.layout.counts(self.marks)

    def rows(self, room: Room) -> Rows:
        """The proposed positions as rows of logits."""
        return Rows.of(self.layout, self.now, self.marks, room.asked, room.exact, room.longest)


@dataclass(frozen=True)
class Ahead:
    """The next step of a batch as far as it is known before the network runs.

    Attributes:
        asks: of each canvas.
        proposed: the sampler's share, on the device.
    """

    asks: Asks
    proposed: Proposed

    @classmethod
    def of(cls, sampler: Sampler, batch: CanvasBatch) -> Ahead:
        """The next step of a batch."""
        plan, device = sampler.plan(batch), batch.layout.device
        return cls(plan.asks, Proposed.of(sampler, batch.layout, plan.now.to(device), batch.tokens))

    @classmethod
    def after(cls, sampler: Sampler, batch: CanvasBatch, written: Written) -> Ahead:
        """The step after the one of a batch that was just taken, from what it wrote on the device.
        Canvases that are complete take no part.
        """
        moved = replace(batch, step=batch.step + 1)
        if bool((finished := moved.finished).any()):
            active = ~finished if batch.active is None else batch.active & ~finished
            moved = replace(moved, active=active)
        plan = sampler.plan(moved)
        now = plan.now.to(batch.layout.device).with_columns(written.columns)
        return cls(plan.asks, Proposed.of(sampler, batch.layout, now, written.tokens))


def rows_asked(
    sampler: Sampler, batch: CanvasBatch, ahead: Ahead | None = None
) -> Int[np.ndarray, " B"]:
    """Rows of logits that each canvas asks for in its next step: known from the step before, or
    else worked out on the host.

    Args:
        sampler: of the canvases.
        batch: the canvases.
        ahead: their next step, where it was proposed.
    """
    if batch.asked is not None:
        if batch.ahead is not None or batch.active is None:
            return batch.asked
        return np.where(batch.active.numpy(), batch.asked, 0)  # some have left since
    if ahead is None or batch.layout is not batch.host:
        ahead = Ahead.of(sampler, batch.on_host)
    return ahead.proposed.counts.numpy()
