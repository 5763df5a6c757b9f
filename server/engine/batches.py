"""Canvases that have begun: running and preempted ones. Used on the engine's thread alone."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
import torch
from jaxtyping import Bool, Int

from models.checkpoints.load import Checkpoint
from sampler import SAMPLERS
from sampler.graphs import StepGraphs
from sampler.step import StepResult, take_steps
from server.engine.arena import Arena
from server.engine.caching import Caching
from server.engine.canvases import Canvases
from server.engine.events import Event, Failed, Step
from server.engine.isolation import each_alone, failure_of, step_parts
from server.engine.part import Part
from server.engine.prompts import SharedPrompts
from server.engine.slots import Slots
from server.engine.stream import GroupStep, Subscription

log = structlog.get_logger()

NOT_FINITE = Failed("not_finite", "the model gave no finite numbers")

Notification = tuple[Subscription, Event]
"""An event and the subscription that receives it."""


@dataclass
class StepOutcome:
    """The results of one step of all running canvases.

    Attributes:
        records: changes, for the subscribers of each sampler's canvases.
        ended: last events of the requests that ended with the step.
        requests, positions, head_rows, skipped: counts over the canvases whose step succeeded.
        run, kept: positions of these that the network ran, and whose keys and values were kept
            instead; those of unconditional copies included.
        reused: prompt positions whose keys and values were copied from earlier requests.
        replayed: whether the step was taken by a recording.
    """

    records: list[GroupStep] = field(default_factory=list)
    ended: list[Notification] = field(default_factory=list)
    requests: int = 0
    positions: int = 0
    head_rows: int = 0
    skipped: int = 0
    run: int = 0
    kept: int = 0
    reused: int = 0
    replayed: bool = False


class Batches:
    """Running and preempted canvases of each sampler, all in one arena."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        caching: Caching | None = None,
        slots: Slots | None = None,
        graphs: StepGraphs | None = None,
    ) -> None:
        """None so far, of a checkpoint.

        Args:
            checkpoint: the model.
            caching: how requests are cached; not at all where None.
            slots: that they have been given.
            graphs: of the model; None to take each step eagerly.
        """
        self._graphs = graphs
        self._checkpoint = checkpoint
        self._caching = caching or Caching(checkpoint.info, 0)
        self._slots = slots or Slots(0)
        self._ends = np.array(checkpoint.ends, dtype=np.int64)
        self._canvases: dict[str, Canvases] = {}
        self.clear()

    def clear(self) -> None:
        """Remove all canvases."""
        info, arena = self._checkpoint.info, Arena()
        self.prompts = SharedPrompts(self._checkpoint.model, self._caching, self._slots)
        self._canvases = {
            name: Canvases(
                name,
                spec.make(info.vocab_size, info.mask_id, self._checkpoint.ends),
                arena,
                self._checkpoint.device,
                self._caching,
            )
            for name, spec in SAMPLERS.items()
            if info.mask_id is not None or not spec.params.needs_mask
        }

    def __bool__(self) -> bool:
        """Whether any canvas is running."""
        return bool(self.prompts) or any(map(len, self._canvases.values()))

    def begin(self, owners: Sequence[Subscription]) -> list[Notification]:
        """Create the canvases of new requests from the prior.

        Returns:
            The first event of each request that wants steps, and ``Failed`` for each request that
            could not start.
        """
        by_sampler: dict[str, list[Subscription]] = {}
        for owner in owners:
            by_sampler.setdefault(owner.request.params.sampler, []).append(owner)
        events: list[Notification] = []
        for name, some in by_sampler.items():
            events += self._begin(name, some)
        return events

    def _begin(self, name: str, owners: Sequence[Subscription]) -> list[Notification]:
        try:
            starts = self._canvases[name].begin(owners)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if len(owners) > 1:  # find the failing request
                return [event for owner in owners for event in self._begin(name, [owner])]
            log.exception("a request could not start", sampler=name)
            code = failure_of(error).code
            return [(owners[0], Failed(code, "the request could not start"))]
        for owner in owners:
            self.prompts.begun(self._canvases[name], owner)
        return [
            (
                o,
                Step(
                    0, o.request.params.steps, (), tuple(tokens[: len(o.request.tokens)].tolist())
                ),
            )
            for o, tokens in zip(owners, starts, strict=True)
            if o.request.wants_steps
        ]

    def pause(self, owners: Collection[Subscription]) -> None:
        """Preempt requests; their canvases are kept."""
        self.prompts.forget(owners)
        for canvases in self._canvases.values():
            canvases.pause(canvases.slots_of(owners))

    def resume(self, owners: Collection[Subscription]) -> None:
        """Resume preempted requests."""
        for canvases in self._canvases.values():
            canvases.resume(canvases.slots_of(owners))

    def drop(self, owners: Collection[Subscription]) -> None:
        """Remove requests, running or preempted."""
        self.prompts.forget(owners)
        for canvases in self._canvases.values():
            canvases.drop(canvases.slots_of(owners))

    def finish(self, owners: Collection[Subscription], now: float) -> list[Notification]:
        """End requests with their canvases as they stand; returns their last events."""
        self.prompts.forget(owners)
        events: list[Notification] = []
        for canvases in self._canvases.values():
            slots = canvases.slots_of(owners)
            events += _done(canvases, slots, now)
            canvases.drop(slots)
        return events

    def step(self, now: float, step_seconds: float) -> StepOutcome:
        """Take one step of all running canvases.

        Args:
            now: by the monotonic clock.
            step_seconds: estimated time of a step; requests that would miss their latency budget
                get fewer remaining steps.
        """
        stepped = StepOutcome()
        stepped.reused = self.prompts.before_step()
        parts = [c.part(now, step_seconds) for c in self._canvases.values() if c]
        graphs = self._graphs
        take, before = (take_steps, 0) if graphs is None else (graphs.take_steps, graphs.replayed)
        outcomes = step_parts(self._checkpoint.model, parts, take)
        stepped.replayed = graphs is not None and graphs.replayed > before
        for part, outcome in outcomes:
            if isinstance(outcome, StepResult):
                failed = self._taken_in(part, outcome, stepped)
            else:
                failed = outcome
            if failed is not None:
                slots = part.slots[part.present]
                stepped.ended += [(owner, failed) for _, owner in part.canvases.owners_of(slots)]
                part.canvases.drop(slots)
        self.prompts.after_step()
        return stepped

    def _taken_in(self, part: Part, result: StepResult, stepped: StepOutcome) -> Failed | None:
        """Take in the result of a part's step, and end the requests that are complete; returns why
        that failed.
        """
        try:
            over = self._settle(part, result, stepped)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            log.exception("a step's outcome could not be taken in", sampler=part.canvases.name)
            return failure_of(error)
        if over.any():
            failed = result.failed.numpy()
            sick, well = part.slots[over & failed], part.slots[over & ~failed]
            stepped.ended += [(owner, NOT_FINITE) for _, owner in part.canvases.owners_of(sick)]
            stepped.ended += _done(part.canvases, well, time.monotonic())
            part.canvases.drop(part.slots[over])
        return None

    def _settle(
        self, part: Part, result: StepResult, stepped: StepOutcome
    ) -> Bool[np.ndarray, " B"]:
        """Update the canvases by the result of a step; returns which are complete."""
        batch, host, present = result.batch, result.batch.host, part.present
        part.canvases.commit(part, result)
        if part.canvases.wants_steps(part):
            stepped.records.append(GroupStep.of(part.owners, result, part.batch.block))
        lengths, settled = batch.lengths.numpy(), result.settled.numpy()
        stepped.requests += part.size
        stepped.positions += int(lengths[present].sum())
        stepped.head_rows += result.head_rows
        stepped.run += result.run
        stepped.kept += result.kept
        stepped.skipped += int((result.forwards.numpy()[present] == 0).sum())
        over = result.failed.numpy() | batch.finished.numpy()
        over |= settled >= part.canvases.shown(part)
        # an end token among the settled positions ends the text: the rest is not needed
        ends = np.isin(batch.on_host.tokens.numpy(), self._ends).nonzero()[0]
        if len(ends):
            canvas, position = host.canvas.numpy()[ends], host.position.numpy()[ends]
            within = (host.last_given.numpy()[canvas] < position) & (position < settled[canvas])
            over[canvas[within & ~part.canvases.reads_through_ends(part)[canvas]]] = True
        if batch.active is not None:
            over &= batch.active.numpy()
        return over


def _done(canvases: Canvases, slots: Int[np.ndarray, " G"], now: float) -> list[Notification]:
    """The last event of each of some canvases."""
    return [
        (owner, each_alone(lambda slot=slot: canvases.done(slot, now)))
        for slot, owner in canvases.owners_of(slots)
    ]
