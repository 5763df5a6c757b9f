"""The event-loop side of the engine: who waits for which request, and how a step is divided among
them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sampler.step import StepResult
from sampler.transition import OPS
from server.engine.events import Change, Done, Event, GenerationRequest, LogProbs, Step, Tally

MAX_PENDING = 8  # events a reader may lie behind before they are merged


@dataclass
class Subscription(AsyncIterator[Event]):
    """One request's events; lives on the event loop. Ends after exactly one ``Done`` or
    ``Failed``.
    """

    request: GenerationRequest
    on_cancel: Callable[[Subscription], None]
    on_finish: Callable[[Subscription], None]
    submitted: float
    on_done: Callable[[Tally], None] | None = None
    admitted: float = 0.0
    ended: bool = False
    _pending: deque[Event] = field(default_factory=deque)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, event: Event) -> None:
        """Add an event; a reader far behind finds steps merged, never a missing end."""
        if self.ended:
            return
        self.ended = not isinstance(event, Step)
        last = self._pending[-1] if self._pending else None
        full = len(self._pending) >= MAX_PENDING and not self.request.lossless
        if full and isinstance(event, Step) and isinstance(last, Step):
            self._pending[-1] = last.merged(event)
        else:
            self._pending.append(event)
        self._ready.set()

    async def __anext__(self) -> Event:
        while not self._pending:
            if self.ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        event = self._pending.popleft()
        if isinstance(event, Done) and self.on_done is not None:
            self.on_done(event.tally)
        return event

    def cancel(self) -> None:
        """The caller is gone: free the slot before the next step. Does nothing after the end."""
        if not self.ended:
            self.ended = True
            self.on_cancel(self)

    def finish(self) -> None:
        """What has settled is enough: end well before the next step."""
        if not self.ended:
            self.on_finish(self)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


async def merged(
    subscriptions: Sequence[Subscription],
) -> AsyncGenerator[tuple[int, Event], None]:
    """Events of several requests as they come, each with its request's place."""
    waiting = {asyncio.ensure_future(anext(s)): i for i, s in enumerate(subscriptions)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = waiting.pop(task)
                event = task.result()
                if isinstance(event, Step):
                    waiting[asyncio.ensure_future(anext(subscriptions[i]))] = i
                yield i, event
                await asyncio.sleep(0)  # the events of many leave room for others
    finally:
        for task in waiting:
            task.cancel()


@dataclass(frozen=True)
class StepRecord:
    """One step of a group in plain lists; changes of canvas i lie at bounds[i]:bounds[i + 1]."""

    owners: list[Subscription]
    steps_done: list[int]
    steps: list[int]
    settled: list[int]
    blocks: list[int]
    starts: list[int]
    bounds: list[int]
    rows: list[int]
    old: list[int]
    new: list[int]
    op: list[int]
    confidence: list[float]
    log_p: list[float]
    top_ids: list[list[int]]
    top_log_p: list[list[float]]

    @classmethod
    def of(cls, owners: list[Subscription], result: StepResult, blocks: Tensor) -> StepRecord:
        """What a step did to the canvases of ``owners``, each having worked on a block [B]."""
        batch, change = result.batch, result.change
        ends = batch.lengths.cumsum(0)
        return cls(
            owners=owners,
            steps_done=batch.step.tolist(),
            steps=batch.steps.tolist(),
            settled=result.settled.tolist(),
            blocks=blocks.tolist(),
            starts=(ends - batch.lengths).tolist(),
            bounds=[0, *torch.searchsorted(change.rows, ends).tolist()],
            rows=change.rows.tolist(),
            old=change.old.tolist(),
            new=change.new.tolist(),
            op=change.op.tolist(),
            confidence=change.confidence.tolist(),
            log_p=change.log_p.tolist(),
            top_ids=change.top_ids.tolist(),
            top_log_p=change.top_log_p.tolist(),
        )

    def deliver(self) -> None:
        """Divide the step among its subscribers; runs on the event loop."""
        for i, owner in enumerate(self.owners):
            if not owner.request.wants_steps:
                continue
            done, steps = self.steps_done[i], self.steps[i]
            step, tells = min(done, steps), owner.request.params.logprobs
            changes = tuple(
                Change(
                    self.rows[c] - self.starts[i],
                    OPS[self.op[c]],
                    self.old[c],
                    self.new[c],
                    self.confidence[c],
                    self._logprobs(c, step) if tells else None,
                )
                for c in range(self.bounds[i], self.bounds[i + 1])
            )
            final = done > steps
            owner.push(Step(step, steps, changes, None, final, self.settled[i], self.blocks[i]))

    def _logprobs(self, c: int, step: int) -> LogProbs:
        top = zip(self.top_ids[c], self.top_log_p[c], strict=True)
        return LogProbs(step, self.log_p[c], tuple(top))
