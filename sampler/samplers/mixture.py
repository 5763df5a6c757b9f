"""Samplers that throw their coins before the network runs.

Where a posterior is a mixture of keeping the token and of a few other outcomes, whether a position
may change is decided by one uniform and a bound that holds whatever the model says. Positions that
stay never ask for logits; a canvas with no asking position is not run at all. What the mixture is,
each sampler says: ``ancestral``, ``gidd``, ``remdm``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.logits.row_reader import RowStats
from sampler.logits.row_requests import RowQuery
from sampler.noise_kernel import ReverseMixture
from sampler.params import NOISE_REMOVAL, SamplerParams, param, params_in
from sampler.philox import Role, integers, uniforms
from sampler.state import Columns, SamplerState
from sampler.transition import Transition

GREEDY = NOISE_REMOVAL.words.index("greedy")


@dataclass(frozen=True)
class BranchParams(SamplerParams):
    """Parameters of every such sampler."""

    noise_removal: str = param(NOISE_REMOVAL)

    @property
    def extra_calls(self) -> int:
        """One more call for the noise removal, unless there is none."""
        return int(self.noise_removal != "none")


@dataclass(frozen=True)
class BranchState(SamplerState):
    """Columns of every such sampler.

    Attributes:
        noise_removal: index into its words, [B].
    """

    noise_removal: Int[Tensor, " B"]

    @classmethod
    def of(cls, params: Sequence[Any], free: Sequence[int], columns: Columns) -> Any:
        """The columns of new canvases: a field that is declared as a parameter of the same name is
        filled from it, words by their index.
        """
        return cls(*(column_of(f.name, params, columns) for f in fields(cls)))


def column_of(name: str, params: Sequence[Any], columns: Columns) -> Tensor:
    """One parameter of all requests as a tensor [B]; words by their index."""
    declared = params_in(params[0].own)[name]
    values = [getattr(p.own, name) for p in params]
    if declared.kind == "choice":
        return columns.integers([declared.words.index(value) for value in values])
    return columns.reals(values)


State = TypeVar("State", bound=BranchState)


@dataclass(frozen=True)
class BranchProposal:
    """Which rows the step needs, and the coins it has already thrown.

    Attributes:
        rows: packed positions whose logits are needed.
        query: what is asked of them.
        mixture: the mixture at each position.
        maybe: positions that leave, if their coin stays below L.
        u_leave: the coin; L is compared with this same number.
        overwrite: positions that leave whatever their coin says.
        to_model: a leaving position takes the model's guess,
        elsewhere: or else goes to this id (a uniform one or the mask).
    """

    rows: Int[Tensor, " R"]
    query: RowQuery
    mixture: ReverseMixture
    maybe: Bool[Tensor, " T"]
    u_leave: Float[Tensor, " T"]
    overwrite: Bool[Tensor, " T"]
    to_model: Bool[Tensor, " T"]
    elsewhere: Int[Tensor, " T"]


@dataclass(frozen=True)
class BranchFirst(ABC, Generic[State]):
    """What such samplers share, for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m, or None where there is none.
        ends: ids of the end token and the end of a turn, as far as there are such.
    """

    vocab_size: int
    mask_id: int | None
    ends: tuple[int, ...] = ()

    @abstractmethod
    def begin(self, batch: CanvasBatch[State]) -> CanvasBatch[State]:
        """Draw the editable positions from the prior; the others are clamped."""

    @abstractmethod
    def mixture(self, batch: CanvasBatch[State]) -> ReverseMixture:
        """The mixture of the next step at each position, [T]."""

    def uniform_id(self, u: Tensor) -> Tensor:
        """An id of the uniform noise from a uniform in [0, 1): any of the N, the mask included."""
        return integers(u, self.vocab_size)

    def settled(self, batch: CanvasBatch[State]) -> Int[Tensor, " B"]:
        """Any token may change until the end."""
        canvas, _ = batch.owner
        return batch.leading(~batch.editable | batch.finished[canvas])

    def propose(self, batch: CanvasBatch[State]) -> BranchProposal:
        """Throw the coins of the next step and say which rows it needs. Reads no logits."""
        canvas, position = batch.owner
        step, seed = batch.step[canvas], batch.seed[canvas]
        mixture = self.mixture(batch)
        u1, u2, u3, u4 = uniforms(seed, step, position, Role.BRANCH, Role.TOKEN)
        greedy = (batch.step >= batch.steps) & (batch.own.noise_removal == GREEDY)

        can_leave = batch.editable & (mixture.rate > 0)
        overwrite = can_leave & greedy[canvas]
        maybe = overwrite | (can_leave & (u1 < mixture.bound))
        to_model = overwrite | (u2 < mixture.to_model)
        elsewhere = self.uniform_id(u4)
        if self.mask_id is not None:
            to_uniform = u2 < mixture.to_model + mixture.to_uniform
            elsewhere = torch.where(to_uniform, elsewhere, self.mask_id)
        asked = to_model | (mixture.signal > 0) | batch.tell[canvas]
        rows = torch.nonzero(maybe & asked)[:, 0]
        of = canvas[rows]
        query = RowQuery.about(
            batch,
            rows,
            of,
            u3[rows],
            temperature=torch.where(greedy, 0.0, batch.temperature)[of],
            written=torch.where(to_model, -1, elsewhere)[rows],
        )
        return BranchProposal(rows, query, mixture, maybe, u1, overwrite, to_model, elsewhere)

    def commit(
        self, batch: CanvasBatch[State], proposal: BranchProposal, stats: RowStats
    ) -> tuple[CanvasBatch[State], Transition]:
        """Settle the step with what the model said of ``proposal.rows``."""
        z, rows = batch.tokens, proposal.rows
        p_z = torch.zeros_like(proposal.u_leave)
        p_z[rows] = stats.p_current
        guess = torch.zeros_like(z)
        guess[rows] = stats.sample

        leave = proposal.u_leave < proposal.mixture.leave(p_z)
        leaving = proposal.maybe & (leave | proposal.overwrite)
        new = torch.where(proposal.to_model, guess, proposal.elsewhere)
        after = torch.where(leaving, new, z)
        change = Transition.between(z, after, self.mask_id, rows, stats)
        return batch.advanced(after), change
