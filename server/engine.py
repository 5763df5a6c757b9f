"""The engine: one thread owns the model and walks all running requests a step at a time.

Requests join and leave between any two steps. The thread hands each step's outcome to the event
loop in one call; there it is divided among the subscribers, so the step itself never loops over
requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import structlog
import torch

from models.checkpoint import Checkpoint
from sampler import SAMPLERS
from sampler.canvas import CanvasBatch
from sampler.step import StepResult, take_steps
from sampler.transition import OPS
from server.events import Done, Event, Failed, GenerationRequest, Step
from server.group import Group
from server.metrics import Metrics
from server.scheduler import QueueFull, Scheduler
from server.score import Score, ScoreRequest
from server.scoring import ScoreFailed, Scorer, Scoring
from server.subscription import StepRecord, Subscription

log = structlog.get_logger()

PACE_MEMORY = 0.8  # how much of the pace seen so far stays when a step has been timed


class Engine:
    """Runs one checkpoint.

    ``start`` and ``submit`` are called on the event loop that reads the events.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        scheduler: Scheduler[Subscription],
        scorer: Scorer,
        metrics: Metrics,
    ):
        """Nothing runs before ``start``."""
        self.checkpoint = checkpoint
        self.scheduler = scheduler
        self.scorer = scorer
        self.metrics = metrics
        info = checkpoint.info
        self._samplers = {
            n: make(info.vocab_size, info.mask_id, checkpoint.ends) for n, make in SAMPLERS.items()
        }
        self._ends = torch.tensor(checkpoint.ends, device=checkpoint.device)
        self._groups: dict[str, Group] = {}
        self._pace = 1e-3  # seconds per step, as seen of late
        self._position_pace = 1e-5  # seconds per position, as seen of late
        self._cancelled: set[Subscription] = set()
        self._finishing: set[Subscription] = set()
        self._wake = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="xdlm-engine", daemon=True)
        metrics.watch(lambda: self.scheduler.running, lambda: self.scheduler.waiting)

    def start(self) -> None:
        """Start the engine's thread; events go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Fail whatever is left and end the thread, after the step in progress."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._stopping

    @property
    def backlog(self) -> int:
        """Positions × steps left of all requests that are here."""
        with self._wake:
            waiting = [subscription.request for subscription in self.scheduler.queue]
        left = sum(len(request.tokens) * request.params.steps for request in waiting)
        batches = [group.batch for group in list(self._groups.values())]
        return left + sum(int(((b.calls - b.step) * b.lengths).sum()) for b in batches)

    @property
    def backlog_seconds(self) -> float:
        """About how long that takes, at the pace seen of late."""
        return self.backlog * self._position_pace

    def submit(self, request: GenerationRequest) -> Subscription:
        """Queue a request.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[Subscription]:
        """Queue several requests, all or none.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        now = time.monotonic()
        subscriptions = [Subscription(r, self.cancel, self.finish, now) for r in requests]
        with self._wake:
            if self._stopping or self.scheduler.room < len(requests):
                raise QueueFull
            for subscription in subscriptions:
                self.scheduler.submit(subscription, len(subscription.request.tokens))
            self._wake.notify()
        return subscriptions

    def score(self, request: ScoreRequest) -> asyncio.Future[Score]:
        """Score a text; cancelling what is returned stops the work on it. Fails with
        ``ScoreFailed``.

        Raises:
            QueueFull: at once; nothing was queued.
        """
        assert self._loop is not None
        scoring = Scoring(request, self._loop.create_future())
        with self._wake:
            if self._stopping or self.scorer.full:
                raise QueueFull
            self.scorer.add(scoring)
            self._wake.notify()
        return scoring.future

    def cancel(self, subscription: Subscription) -> None:
        """Free a request's slot: at once if it waits, before the next step if it runs."""
        with self._wake:
            self.scheduler.remove(subscription)
            self._cancelled.add(subscription)
            self._wake.notify()
        self.metrics.cancelled()

    def finish(self, subscription: Subscription) -> None:
        """End a running request as it stands, before the next step."""
        with self._wake:
            self._finishing.add(subscription)

    # The engine's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (
                    self._stopping or self._groups or self.scheduler.waiting or self.scorer.waiting
                ):
                    self._cancelled.clear()
                    self._finishing.clear()
                    self._wake.wait()
                if self._stopping:
                    break
                cancelled, self._cancelled = self._cancelled, set()
                finishing, self._finishing = self._finishing, set()
                admitted = self.scheduler.admit()
            self._drop(cancelled)
            self._drop(finishing, well=True)
            self._join(admitted)
            if self._groups:
                try:
                    self._step()
                except Exception:
                    log.exception("step failed")
                    failed = Failed("internal", "the denoising step failed")
                    for name in list(self._groups):
                        self._fail_all(self._groups.pop(name), failed)
            if over := self.scorer.advance():
                self._scored(*over)
        stopped = Failed("shutting_down", "the server is shutting down")
        for group in self._groups.values():
            self._fail_all(group, stopped)
        with self._wake:
            waiting, unscored = self.scheduler.drain(), self.scorer.drain()
        self._end([(s, stopped) for s in waiting])
        for scoring in unscored:
            self._scored(scoring, ScoreFailed(stopped))

    def _drop(self, leaving: set[Subscription], well: bool = False) -> None:
        """Take requests out; those that end well are told."""
        if not leaving:
            return
        for name, group in list(self._groups.items()):
            leave = torch.tensor([o in leaving for o in group.owners]).to(self.checkpoint.device)
            if well:
                self._finish(group, leave, torch.zeros_like(leave))
            self._replace(name, group.kept(~leave))

    def _replace(self, name: str, group: Group) -> None:
        if group.owners:
            self._groups[name] = group
        else:
            self._groups.pop(name, None)

    def _join(self, admitted: list[Subscription]) -> None:
        now = time.monotonic()
        by_sampler: dict[str, list[Subscription]] = {}
        for subscription in admitted:
            subscription.admitted = now
            self.metrics.queued(now - subscription.submitted)
            by_sampler.setdefault(subscription.request.params.sampler, []).append(subscription)
        for name, owners in by_sampler.items():
            try:
                self._begin(name, owners)
            except Exception:
                log.exception("requests could not start", sampler=name)
                self._end([(o, Failed("internal", "the request could not start")) for o in owners])
                self._drop(set(owners))

    def _begin(self, name: str, owners: list[Subscription]) -> None:
        """Draw the canvases of new requests and put them beside the running ones."""
        sampler, device = self._samplers[name], self.checkpoint.device
        canvases = [(o.request.tokens, o.request.editable, o.request.params) for o in owners]
        batch = sampler.begin(CanvasBatch.of(canvases, device))
        new = Group.of(sampler, batch, owners)
        running = self._groups.get(name)
        self._groups[name] = running.joined(new) if running else new
        starts = batch.tokens.split(batch.lengths.tolist())
        self._send(
            [
                (o, Step(0, o.request.params.steps, (), tuple(tokens.tolist())))
                for o, tokens in zip(owners, starts, strict=True)
                if o.request.wants_steps
            ]
        )

    def _step(self) -> None:
        began = time.monotonic()
        self._groups = {n: g.hurried(began, self._pace) for n, g in self._groups.items()}
        groups = list(self._groups.items())
        results = take_steps(self.checkpoint.model, [(g.sampler, g.batch) for _, g in groups])
        over = [self._settle(g, r) for (_, g), r in zip(groups, results, strict=True)]
        seconds = time.monotonic() - began
        self._pace = max(seconds, PACE_MEMORY * self._pace + (1 - PACE_MEMORY) * seconds)
        positions = sum(r.batch.tokens.numel() for r in results)
        seen = seconds / positions
        self._position_pace = PACE_MEMORY * self._position_pace + (1 - PACE_MEMORY) * seen
        self.metrics.stepped(
            seconds=seconds,
            requests=sum(r.batch.size for r in results),
            positions=positions,
            head_rows=sum(r.head_rows for r in results),
            skipped=sum(int((r.forwards == 0).sum()) for r in results),
        )
        for (name, group), result, ended in zip(groups, results, over, strict=True):
            if bool(ended.any()):
                self._finish(group, ended, result.failed)
                self._replace(name, group.kept(~ended))

    def _settle(self, group: Group, result: StepResult) -> torch.Tensor:
        """Take a step's outcome into the group and tell the readers; returns who is over, [B]."""
        canvas, position = group.batch.owner()
        blocks = group.batch.block
        changed = canvas[result.change.rows]
        group.ops.view(-1).index_add_(
            0, changed * len(OPS) + result.change.op, torch.ones_like(changed)
        )
        group.forwards += result.forwards
        group.batch = result.batch
        if any(o.request.wants_steps for o in group.owners):
            self._publish(group, result, blocks)
        # an end token in what can no longer change ends the text: the rest is not needed
        batch, settled = result.batch, result.settled
        ends = torch.isin(batch.tokens, self._ends) & ~group.through_ends[canvas]
        given = torch.where(batch.editable, -1, position)
        last_given = torch.full_like(settled, -1).scatter_reduce(0, canvas, given, "amax")
        ends &= (position > last_given[canvas]) & (position < settled[canvas])
        ended = torch.zeros_like(result.failed)
        ended[canvas[ends]] = True
        return result.failed | batch.finished | ended | (settled >= batch.lengths)

    def _publish(self, group: Group, result: StepResult, blocks: torch.Tensor) -> None:
        """Send the step to the event loop as plain lists, in one call."""
        self._on_loop(StepRecord.of(group.owners, result, blocks).deliver)

    def _finish(self, group: Group, over: torch.Tensor, failed: torch.Tensor) -> None:
        now = time.monotonic()
        canvases = group.batch.tokens.split(group.batch.lengths.tolist())
        ended: list[tuple[Subscription, Event]] = []
        for i in torch.nonzero(over)[:, 0].tolist():
            owner = group.owners[i]
            if failed[i]:
                ended.append((owner, Failed("not_finite", "the model gave no finite numbers")))
                continue
            ended.append((owner, Done(tuple(canvases[i].tolist()), group.tally(i, now))))
        self._end(ended)

    def _fail_all(self, group: Group, failed: Failed) -> None:
        self._end([(owner, failed) for owner in group.owners])

    def _scored(self, scoring: Scoring, outcome: Score | ScoreFailed) -> None:
        self.metrics.scored(outcome.failed.code if isinstance(outcome, ScoreFailed) else None)
        self._on_loop(lambda: scoring.settle(outcome))

    def _end(self, ended: list[tuple[Subscription, Event]]) -> None:
        with self._wake:
            for owner, _ in ended:
                self.scheduler.remove(owner)
        for owner, event in ended:
            self.metrics.ended(owner.request, event, time.monotonic() - owner.submitted)
        self._send(ended)

    def _send(self, events: list[tuple[Subscription, Event]]) -> None:
        def deliver() -> None:
            for owner, event in events:
                owner.push(event)

        if events:
            self._on_loop(deliver)

    def _on_loop(self, deliver: Callable[[], None]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver)
