"""One denoising step of a packed batch: propose, run the network where it is asked, commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from sampler.canvas import CanvasBatch, Transition
from sampler.readout import RowQuery, RowStats, readout


@runtime_checkable
class Network(Protocol):
    """What a step needs of a model; ``models.denoiser.Denoiser`` fulfils it."""

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        """Packed tokens [T], sequence b at offsets[b]:offsets[b + 1] -> hidden states [R, D] of the
        packed positions ``rows``.
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

    def begin(self, batch: CanvasBatch) -> CanvasBatch:
        """Draw the canvases' first tokens."""
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
        ran: canvases whose forward pass was needed.
        failed: canvases for which the model gave no numbers; their tokens are not to be used.
        head_rows: rows of logits computed.
    """

    batch: CanvasBatch
    change: Transition
    ran: Bool[Tensor, " B"]
    failed: Bool[Tensor, " B"]
    head_rows: int


@torch.inference_mode()
def take_step(sampler: Sampler, network: Network, batch: CanvasBatch) -> StepResult:
    """Advance every canvas of the batch by one step.

    Canvases with no proposed row are not run: networks here take no time input, and the canvas that
    they would read has not changed.
    """
    proposal: Proposal = sampler.propose(batch)
    rows = proposal.rows
    canvas, _ = batch.owner()
    asked = canvas[rows]
    ran = torch.zeros(batch.size, dtype=torch.bool, device=rows.device)
    ran[asked] = True
    if rows.numel():
        run = ran[canvas]
        offsets = torch.cat((asked.new_zeros(1), batch.lengths[ran].cumsum(0)))
        hidden = network.trunk(batch.tokens[run], offsets, (run.cumsum(0) - 1)[rows])
    else:
        hidden = torch.zeros(0, 1, device=rows.device)
    stats = readout(network.head, hidden, proposal.query, sampler.vocab_size, sampler.mask_id)
    failed = torch.zeros_like(ran)
    failed[asked[~stats.finite]] = True
    after, change = sampler.commit(batch, proposal, stats)
    return StepResult(after, change, ran, failed, rows.numel())
