"""Canvases that have begun, batched by sampler: running and preempted ones. Used on the engine's
thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog
import torch

from models.checkpoints.load import Checkpoint
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.step import StepResult
from sampler.transition import OPS
from server.engine.events import Done, Event, Failed, Step
from server.engine.group import Group
from server.engine.isolation import each_alone, failure_of, step_groups
from server.engine.request_params import samplers_for
from server.engine.stream import GroupStep, Subscription

log = structlog.get_logger()

Notification = tuple[Subscription, Event]
"""An event and the subscription that receives it."""
Groups = dict[str, Group]


@dataclass
class StepOutcome:
    """The results of one step of all groups.

    Attributes:
        records: changes, for the subscribers of each group.
        ended: last events of the requests that ended with the step.
        requests, positions, head_rows, skipped: counts over the groups whose step succeeded.
    """

    records: list[GroupStep] = field(default_factory=list)
    ended: list[Notification] = field(default_factory=list)
    requests: int = 0
    positions: int = 0
    head_rows: int = 0
    skipped: int = 0


class Batches:
    """Running and preempted canvases, packed into one group for each sampler."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Empty batches of a checkpoint's canvases."""
        info = checkpoint.info
        self._checkpoint = checkpoint
        self._samplers = {
            name: spec.make(info.vocab_size, info.mask_id, checkpoint.ends)
            for name, spec in SAMPLERS.items()
            if name in samplers_for(info.mask_id is not None)
        }
        self._ends = torch.tensor(checkpoint.ends)
        self._active: Groups = {}
        self._paused: Groups = {}

    def __bool__(self) -> bool:
        """Whether any canvas is running."""
        return bool(self._active)

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
            sampler, device = self._samplers[name], self._checkpoint.device
            canvases = [(o.request.tokens, o.request.editable, o.request.params) for o in owners]
            batch = sampler.begin(CanvasBatch.of(canvases, device))
            _add(self._active, Group.of(name, sampler, batch, list(owners)))
        except Exception as error:
            if len(owners) > 1:  # find the failing request
                return [event for owner in owners for event in self._begin(name, [owner])]
            log.exception("a request could not start", sampler=name)
            code = failure_of(error).code
            return [(owners[0], Failed(code, "the request could not start"))]
        starts = batch.on_host.tokens.split(batch.lengths.tolist())
        return [
            (o, Step(0, o.request.params.steps, (), tuple(tokens.tolist())))
            for o, tokens in zip(owners, starts, strict=True)
            if o.request.wants_steps
        ]

    def pause(self, owners: Collection[Subscription]) -> None:
        """Preempt requests; their canvases are kept."""
        for group in _taken(self._active, owners):
            _add(self._paused, group)

    def resume(self, owners: Collection[Subscription]) -> None:
        """Resume preempted requests."""
        for group in _taken(self._paused, owners):
            _add(self._active, group)

    def drop(self, owners: Collection[Subscription]) -> list[Group]:
        """Remove requests, running or preempted; returns their groups."""
        return [
            group for groups in (self._active, self._paused) for group in _taken(groups, owners)
        ]

    def finish(self, owners: Collection[Subscription], now: float) -> list[Notification]:
        """End requests with their canvases as they stand; returns their last events."""
        return [
            (owner, each_alone(lambda group=group, i=i: _done(group, i, now)))
            for group in self.drop(owners)
            for i, owner in enumerate(group.owners)
        ]

    def clear(self) -> None:
        """Remove all canvases."""
        self._active, self._paused = {}, {}

    def step(self, now: float, step_seconds: float) -> StepOutcome:
        """Take one step of all running canvases.

        Args:
            now: by the monotonic clock.
            step_seconds: estimated time of a step; requests that would miss their latency budget
                get fewer remaining steps.
        """
        stepped = StepOutcome()
        groups = [group.with_deadline_steps(now, step_seconds) for group in self._active.values()]
        self._active = {}
        for group, outcome in step_groups(self._checkpoint.model, groups):
            if isinstance(outcome, Failed):
                stepped.ended += [(owner, outcome) for owner in group.owners]
                continue
            try:
                over = self._settle(group, outcome, stepped)
            except torch.AcceleratorError:
                raise
            except Exception as error:
                log.exception("a step's outcome could not be taken in", sampler=group.name)
                failed = failure_of(error)
                stepped.ended += [(owner, failed) for owner in group.owners]
                continue
            if bool(over.any()):
                stepped.ended += _ended(group, over, outcome.failed, time.monotonic())
                group = group.kept(~over)
            _add(self._active, group)
        return stepped

    def _settle(self, group: Group, result: StepResult, stepped: StepOutcome) -> torch.Tensor:
        """Update a group by the result of a step; returns which canvases are complete, [B]."""
        canvas, position = group.batch.host.canvas, group.batch.host.position
        blocks = group.batch.block
        changed = canvas[result.change.rows]
        group.ops.view(-1).index_add_(
            0, changed * len(OPS) + result.change.op, torch.ones_like(changed)
        )
        group.forwards += result.forwards
        group.batch = result.batch
        if any(o.request.wants_steps for o in group.owners):
            stepped.records.append(GroupStep.of(group.owners, result, blocks))
        stepped.requests += result.batch.size
        stepped.positions += result.batch.tokens.numel()
        stepped.head_rows += result.head_rows
        stepped.skipped += int((result.forwards == 0).sum())
        # an end token among the settled positions ends the text: the rest is not needed
        batch, settled = result.batch.on_host, result.settled
        ends = torch.isin(batch.tokens, self._ends) & ~group.through_ends[canvas]
        given = torch.where(batch.editable, -1, position)
        last_given = torch.full_like(settled, -1).scatter_reduce(0, canvas, given, "amax")
        ends &= (position > last_given[canvas]) & (position < settled[canvas])
        ended = torch.zeros_like(result.failed)
        ended[canvas[ends]] = True
        return result.failed | batch.finished | ended | (settled >= batch.lengths)


def _add(groups: Groups, more: Group) -> None:
    if more.owners:
        known = groups.get(more.name)
        groups[more.name] = more if known is None else known.joined(more)


def _taken(groups: Groups, owners: Collection[Subscription]) -> list[Group]:
    """Remove the canvases of some owners from groups; returns them."""
    taken: list[Group] = []
    if not owners:
        return taken
    wanted = set(owners)
    for name, group in list(groups.items()):
        flags = torch.tensor([o in wanted for o in group.owners])
        if not bool(flags.any()):
            continue
        taken.append(group.kept(flags))
        del groups[name]
        _add(groups, group.kept(~flags))
    return taken


def _ended(
    group: Group, over: torch.Tensor, failed: torch.Tensor, now: float
) -> list[Notification]:
    """The last event of each canvas where over [B] is true."""
    events: list[Notification] = []
    for i in torch.nonzero(over)[:, 0].tolist():
        if failed[i]:
            event: Event = Failed("not_finite", "the model gave no finite numbers")
        else:
            event = each_alone(lambda i=i: _done(group, i, now))
        events.append((group.owners[i], event))
    return events


def _done(group: Group, i: int, now: float) -> Done:
    start = int(group.batch.lengths[:i].sum())
    tokens = group.batch.on_host.tokens[start : start + int(group.batch.lengths[i])]
    return Done(tuple(tokens.tolist()), group.tally(i, now))
