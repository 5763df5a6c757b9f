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
from sampler.layout import Layout
from sampler.logits.row_requests import RowQuery
from sampler.logits.row_stats import RowStats
from sampler.noise_kernel import ReverseMixture
from sampler.now import Now
from sampler.params import NOISE_REMOVAL, SamplerParams, param, params_in
from sampler.philox import Role, integers, uniforms
from sampler.plan import Plan, Rows, Written, row_settings
from sampler.state import Columns, SamplerState

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
    def of(
        cls, params: Sequence[Any], free: Sequence[int], first: Sequence[int], columns: Columns
    ) -> Any:
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
    """Which positions ask for logits, and the coins the step has already thrown.

    Attributes:
        marks: positions whose logits are needed.
        mixture: the mixture at each position.
        maybe: positions that leave, if their coin stays below L.
        u_leave: the coin; L is compared with this same number.
        u_token: for the draw from the model.
        overwrite: positions that leave whatever their coin says; None if there are none.
        to_model: a leaving position takes the model's guess,
        elsewhere: or else goes to this id (a uniform one or the mask).
    """

    marks: Bool[Tensor, " T"]
    mixture: ReverseMixture
    maybe: Bool[Tensor, " T"]
    u_leave: Float[Tensor, " T"]
    u_token: Float[Tensor, " T"]
    overwrite: Bool[Tensor, " T"] | None
    to_model: Bool[Tensor, " T"]
    elsewhere: Int[Tensor, " T"]


@dataclass(frozen=True)
class BranchFirst(ABC, Generic[State]):
    """Base of such samplers, for a checkpoint's vocabulary; an immutable value.

    Attributes:
        vocab_size: N, the mask included.
        mask_id: m, or None where there is none.
        ends: ids of the end token and the end of a turn, where present.
    """

    vocab_size: int
    mask_id: int | None
    ends: tuple[int, ...] = ()

    @abstractmethod
    def begin(self, batch: CanvasBatch[State]) -> CanvasBatch[State]:
        """Draw the editable positions from the prior; the others are clamped."""

    @abstractmethod
    def mixture(self, batch: CanvasBatch[State], masked: Bool[Tensor, "2 1"]) -> ReverseMixture:
        """The mixture of the next step of each canvas, [2, B]: at masks, and at other tokens.

        Args:
            batch: the canvases.
            masked: true and false.
        """

    def uniform_id(self, u: Tensor) -> Tensor:
        """An id of the uniform noise from a uniform in [0, 1): any of the N, the mask included."""
        return integers(u, self.vocab_size)

    def settled(self, batch: CanvasBatch[State]) -> Int[Tensor, " B"]:
        """Any token may change until the end."""
        return batch.leading(~batch.host.editable | batch.finished[batch.host.canvas])

    def plan(self, batch: CanvasBatch[State]) -> Plan:
        """The mixture of the next step, once for masks and once for other tokens."""
        greedy = (batch.step >= batch.steps) & (batch.own.noise_removal == GREEDY)
        mixture = self.mixture(batch, torch.tensor([[True], [False]]))
        at_positions: dict[str, Tensor] = {"seed": batch.seed, "step": batch.step}
        if greedy.any():
            at_positions["greedy"] = greedy
        for name, values in {**vars(mixture), "bound": mixture.bound}.items():
            at_positions |= {name: values[0], f"{name}_of_tokens": values[1]}
        heat = torch.where(greedy, 0.0, batch.temperature)
        at_rows, asks = row_settings(batch, as_model=False, temperature=heat)
        if "tell" in asks:
            at_positions["tells"] = batch.tell
        if batch.regions:
            at_positions["joint"] = torch.tensor([region is not None for region in batch.regions])
        return Plan.of(batch, at_positions, at_rows, {}, asks)

    def propose(self, layout: Layout, now: Now, tokens: Int[Tensor, " T"]) -> BranchProposal:
        """Throw the coins of the next step and say which rows it needs. Reads no logits."""
        canvas = layout.canvas
        its = now.at_positions(canvas)
        masked = torch.zeros_like(layout.editable)
        if self.mask_id is not None:
            masked = tokens == self.mask_id
        step = now.by_token(canvas, masked)
        bound = step.pop("bound")
        mixture = ReverseMixture(**step)
        u1, u2, u3, u4 = uniforms(
            its["seed"], its["step"], layout.position, Role.BRANCH, Role.TOKEN
        )
        can_leave = layout.editable & (mixture.rate > 0)
        maybe = can_leave & (u1 < bound)
        to_model, overwrite = u2 < mixture.to_model, None
        if "greedy" in its:
            overwrite = can_leave & (its["greedy"] != 0)
            maybe, to_model = maybe | overwrite, to_model | overwrite
        elsewhere = self.uniform_id(u4)
        if self.mask_id is not None:
            to_uniform = u2 < mixture.to_model + mixture.to_uniform
            elsewhere = torch.where(to_uniform, elsewhere, self.mask_id)
        asked = to_model | (mixture.signal > 0)
        if "tells" in its:
            asked |= its["tells"] != 0
        marks = maybe & asked
        if "joint" in its:  # all masks are drawn together, whichever of them leave
            marks |= can_leave & masked & (its["joint"] != 0)
        return BranchProposal(marks, mixture, maybe, u1, u3, overwrite, to_model, elsewhere)

    def query(
        self, layout: Layout, tokens: Tensor, proposal: BranchProposal, rows: Rows
    ) -> RowQuery:
        """Ask for a guess, and for the probability of the token that is there, as drawn from."""
        at, more = rows.at, {}
        if "tell" in rows.settings:
            more["written"] = torch.where(proposal.to_model, -1, proposal.elsewhere)[at]
        return RowQuery.of(rows.settings, tokens[at], proposal.u_token[at], **more)

    def commit(
        self,
        layout: Layout,
        now: Now,
        tokens: Int[Tensor, " T"],
        proposal: BranchProposal,
        rows: Rows,
        stats: RowStats,
    ) -> Written:
        """Settle the step with what the model said of the marked positions."""
        spare = layout.positions + 1  # the last is of empty places
        p_z = proposal.u_leave.new_zeros(spare).scatter_(0, rows.packed, stats.p_current)[:-1]
        guess = tokens.new_zeros(spare).scatter_(0, rows.packed, stats.sample)[:-1]
        leave = proposal.u_leave < proposal.mixture.leave(p_z)
        if proposal.overwrite is not None:
            leave |= proposal.overwrite
        new = torch.where(proposal.to_model, guess, proposal.elsewhere)
        return Written(torch.where(proposal.maybe & leave, new, tokens), {})
