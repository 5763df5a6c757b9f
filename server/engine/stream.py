"""Subscriptions of the event loop to running requests, and the division of a step's changes among
them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import structlog
import torch
from torch import Tensor

from sampler.step import StepResult
from sampler.transition import OPS, Completed, Transition
from server.engine.events import (
    Change,
    Done,
    Event,
    Failed,
    GenerationRequest,
    Guess,
    LogProbs,
    Step,
    Tally,
)

log = structlog.get_logger()

MAX_PENDING = 8  # unread events of a subscription; further steps are merged into the last
UNDELIVERED = Failed("internal", "an event of the request could not be delivered")


@dataclass
class Subscription(AsyncIterator[Event]):
    """One request's events; lives on the event loop. Ends after exactly one ``Done`` or
    ``Failed``.

    Attributes:
        request: as submitted.
        on_cancel: called by ``cancel``, and by ``fail`` with the code of the failure.
        on_finish: called by ``finish``.
        on_done: called with the tally when the reader receives ``Done``, in the reader's context.
        submitted, admitted: times of submission and of the first step, by the monotonic clock.
        ended: the last event has been pushed, or the request was cancelled.
        cache_start: first slot of its keys and values, -1 where none are kept.
    """

    request: GenerationRequest
    on_cancel: Callable[[Subscription, str], None]
    on_finish: Callable[[Subscription], None]
    submitted: float
    on_done: Callable[[Tally], None] | None = None
    admitted: float = 0.0
    ended: bool = False
    cache_start: int = -1
    _pending: deque[Event] = field(default_factory=deque)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, event: Event) -> None:
        """Add an event. Beyond ``MAX_PENDING`` unread events, steps are merged; the end is kept."""
        if self.ended:
            return
        last = self._pending[-1] if self._pending else None
        full = len(self._pending) >= MAX_PENDING and not self.request.lossless
        if full and isinstance(event, Step) and isinstance(last, Step):
            self._pending[-1] = last.merged(event)
        else:
            self._pending.append(event)
        self.ended = not isinstance(event, Step)
        self._ready.set()

    def fail(self) -> None:
        """End with ``UNDELIVERED`` and free the request's slot; called where an event could not be
        made or pushed.
        """
        log.exception("an event could not be delivered")
        if not self.ended:
            self.ended = True
            self._pending.append(UNDELIVERED)
            self._ready.set()
            self.on_cancel(self, UNDELIVERED.code)

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
        """Free the request's slot without an event. No effect after the end."""
        if not self.ended:
            self.ended = True
            self.on_cancel(self, "cancelled")

    def finish(self) -> None:
        """End the request successfully before the next step, with its canvas as it stands."""
        if not self.ended:
            self.on_finish(self)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


async def merged(
    subscriptions: Sequence[Subscription],
) -> AsyncGenerator[tuple[int, Event], None]:
    """Events of several requests in order of arrival, each with the index of its request."""
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
                await asyncio.sleep(0)  # let other tasks run between events
    finally:
        for task in waiting:
            task.cancel()


@dataclass(frozen=True)
class TokenFacts:
    """Log-probabilities of some tokens as plain lists, see ``LogProbs``."""

    log_p: list[float]
    top_ids: list[list[int]]
    top_log_p: list[list[float]]
    entropy: list[float]

    @classmethod
    def of(cls, told: Transition | Completed | None) -> TokenFacts | None:
        """Log-probabilities of changes, or of completed tokens; None where no canvas wants them."""
        if told is None or told.log_p is None:
            return None
        columns = (told.log_p, told.top_ids, told.top_log_p, told.entropy)
        return cls(*map(_listed, columns))

    def at(self, place: int, step: int) -> LogProbs:
        """Log-probabilities of one token, as of a step."""
        top = zip(self.top_ids[place], self.top_log_p[place], strict=True)
        return LogProbs(step, self.log_p[place], tuple(top), self.entropy[place])


@dataclass(frozen=True)
class GroupStep:
    """One step of a sampler's canvases as plain lists; changes of canvas i are at
    bounds[i]:bounds[i + 1], guesses and completed tokens likewise. An owner of None takes no part.
    """

    owners: Sequence[Subscription | None]
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
    facts: TokenFacts | None
    guess_bounds: list[int]
    guess_rows: list[int]
    guess_ids: list[int]
    guess_p: list[float]
    completed_bounds: list[int]
    completed_rows: list[int]
    completed_facts: TokenFacts | None

    @classmethod
    def of(
        cls, owners: Sequence[Subscription | None], result: StepResult, blocks: Tensor
    ) -> GroupStep:
        """Changes of a step to the canvases of ``owners``, each in its block of ``blocks`` [B]."""
        batch, change = result.batch, result.change
        ends, guesses = batch.lengths.cumsum(0), change.guesses
        completed = change.completed
        return cls(
            owners=owners,
            steps_done=batch.step.tolist(),
            steps=batch.steps.tolist(),
            settled=result.settled.tolist(),
            blocks=blocks.tolist(),
            starts=(ends - batch.lengths).tolist(),
            bounds=_bounds(change.rows, ends),
            rows=change.rows.tolist(),
            old=change.old.tolist(),
            new=change.new.tolist(),
            op=change.op.tolist(),
            confidence=change.confidence.tolist(),
            facts=TokenFacts.of(change),
            guess_bounds=[] if guesses is None else _bounds(guesses.rows, ends),
            guess_rows=_listed(guesses and guesses.rows),
            guess_ids=_listed(guesses and guesses.ids),
            guess_p=_listed(guesses and guesses.p),
            completed_bounds=[] if completed is None else _bounds(completed.rows, ends),
            completed_rows=_listed(completed and completed.rows),
            completed_facts=TokenFacts.of(completed),
        )

    def deliver(self) -> None:
        """Push each subscriber its part of the step; runs on the event loop. A part that cannot be
        made or pushed fails its own request.
        """
        for i, owner in enumerate(self.owners):
            if owner is None:
                continue
            try:
                if owner.request.wants_steps:
                    owner.push(self._step(i, owner.request))
            except Exception:
                owner.fail()

    def _step(self, i: int, request: GenerationRequest) -> Step:
        done, steps = self.steps_done[i], self.steps[i]
        step, end = min(done, steps), self.starts[i] + len(request.tokens)
        facts = self.facts if request.params.logprobs else None
        changes = tuple(
            Change(
                self.rows[c] - self.starts[i],
                OPS[self.op[c]],
                self.old[c],
                self.new[c],
                self.confidence[c],
                None if facts is None else facts.at(c, step),
            )
            for c in range(self.bounds[i], self.bounds[i + 1])
            if self.rows[c] < end
        )
        settled = min(self.settled[i], len(request.tokens))
        guesses = self._guesses(i, end) if request.params.guesses else None
        return Step(
            step,
            steps,
            changes,
            None,
            done > steps,
            settled,
            self.blocks[i],
            guesses,
            self._completed(i, end, step) if request.params.logprobs else (),
        )

    def _guesses(self, i: int, end: int) -> tuple[Guess, ...]:
        if not self.guess_bounds:
            return ()
        return tuple(
            Guess(self.guess_rows[g] - self.starts[i], self.guess_ids[g], self.guess_p[g])
            for g in range(self.guess_bounds[i], self.guess_bounds[i + 1])
            if self.guess_rows[g] < end
        )

    def _completed(self, i: int, end: int, step: int) -> tuple[tuple[int, LogProbs], ...]:
        if self.completed_facts is None:
            return ()
        return tuple(
            (self.completed_rows[w] - self.starts[i], self.completed_facts.at(w, step))
            for w in range(self.completed_bounds[i], self.completed_bounds[i + 1])
            if self.completed_rows[w] < end
        )


def _bounds(rows: Tensor, ends: Tensor) -> list[int]:
    return [0, *torch.searchsorted(rows, ends).tolist()]


def _listed(values: Tensor | None) -> list:
    return [] if values is None else values.tolist()
