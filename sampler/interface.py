"""The two things that a step is given: a network, and a sampler."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.layout import Layout
from sampler.logits.row_requests import RowQuery
from sampler.logits.row_stats import RowStats
from sampler.now import Now
from sampler.plan import Plan, Rows, Written

Packing = tuple[Tensor | int | None, ...]
"""See ``FixedDenoiser``."""


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


class CachingDenoiser(Denoiser, Protocol):
    """A network that keeps keys and values of positions."""

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor,
        labels: Tensor | None = None,
        segments: tuple[np.ndarray, ...] | None = None,
    ) -> Tensor:
        """As ``Denoiser.trunk``, for parts of canvases.

        Args:
            tokens, offsets, rows, labels: of the positions that are run.
            segments: on the host: positions run of each canvas [B], where each lies on it [T], the
                first slot of each canvas [B], -1 for those that are not cached, and its leading
                slots that are in use after the pass [B]; where networks encode what is final, the
                first position of each canvas that is denoised [B], and the steps that this has been
                denoised in before [B].
        """
        ...


class FixedDenoiser(Denoiser, Protocol):
    """A network that can run in fixed shapes."""

    def fits(self, positions: int, cached: bool) -> bool:
        """Whether it takes this many positions; ``cached``: of canvases whose keys and values are
        kept.
        """
        ...

    def trunk_of(
        self, tokens: Tensor, packing: Packing, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """As ``Denoiser.trunk``; nothing is asked of the device.

        Args:
            tokens: ids [T].
            packing: position of each on its canvas [T]; its sequence [T], B for those of none;
                where each sequence begins and the last one ends [B + 1] in int32; and positions of
                one at most. Where keys and values are kept also the slot of each position [T], -1
                for those of none; the first slot that each sequence attends over [B + 1], and how
                many [B], in int32; and the most of them.
            rows, labels: see there.
        """
        ...


class SelfConditioned(CachingDenoiser, Protocol):
    """A network that reads, where it denoises, the mean embedding that the last step expected."""

    def expected(self, p: Tensor) -> Tensor:
        """Weights [R, V] of ids -> weighted sums of their embeddings [R, D]."""
        ...

    def remember(self, slots: Tensor, phases: Tensor, expected: Tensor) -> None:
        """Keep mean embeddings [R, D] of positions by their slots [R], for the passes of these
        phases [R]; see ``Segments`` in ``sampler.room``. A slot of -1 is nobody's.
        """
        ...


def self_conditioned(network: Denoiser) -> SelfConditioned | None:
    """The network, if it is one of these."""
    return cast(SelfConditioned, network) if hasattr(network, "remember") else None


def in_fixed_shapes(network: Denoiser) -> FixedDenoiser | None:
    """The network, if it is one of these."""
    return cast(FixedDenoiser, network) if hasattr(network, "trunk_of") else None


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
