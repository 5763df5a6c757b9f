"""The requests of one body, one for each choice, on their way through the engine."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

from fastapi import Request, Response
from starlette.background import BackgroundTask

from sampler.params import SamplingParams
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.formats import Head
from server.api.jobs.waiting import failure, no_place, unless_gone
from server.api.schemas.responses.common import DiffusionUsage, Usage
from server.api.schemas.responses.images import ImageUsage
from server.engine.events import Done, Failed, GenerationRequest, Step, Tally
from server.engine.scheduler import QueueFull
from server.engine.stream import Subscription, merged
from server.http.errors import ApiError
from server.http.json_response import JsonResponse
from server.http.sse import EventStream
from server.http.tracing import RecordSpans, span_recorder
from server.output.text import TrajectoryEncoder

COUNTS = ("steps", "forwards", "positions", "unmasked", "refined", "remasked")
"""Fields of ``Tally`` that traces show."""


ChoiceT_co = TypeVar("ChoiceT_co", covariant=True)


class ChoiceReader(Protocol[ChoiceT_co]):
    """Follows the events of one choice; ``canvas`` and ``tally`` are set at the end."""

    trajectory: TrajectoryEncoder
    canvas: Sequence[int]
    tally: Tally

    def take(self, event: Step | Done) -> object:
        """Read any event."""
        ...

    def follow(self, step: Step) -> object:
        """Read a step."""
        ...

    def end(self, done: Done) -> None:
        """Read the end."""
        ...

    def choice(self) -> ChoiceT_co:
        """The complete choice, after the end."""
        ...

    def least_bytes(self) -> int:
        """Lower bound of the size of ``choice`` as JSON, from counts, after the end."""
        ...


ReaderT = TypeVar("ReaderT", bound=ChoiceReader[Any])
Choice = TypeVar("Choice")


class Job(ABC, Generic[ReaderT]):
    """The checked requests of one body, and the answer that is built from their events.

    Attributes:
        state: the application's state, for the requested model.
        params: sampling parameters of the body; each choice has its own seed.
        requests: one for each choice.
        budget: latency budget in milliseconds, if the body has one.
        head: the answer's id, time, model and seed.
        failed: the failure that ended a stream after its headers were sent.
    """

    requests: list[GenerationRequest]
    failed: Failed | None = None

    def __init__(
        self, state: State, prefix: str, params: SamplingParams, budget: float | None
    ) -> None:
        """Check the fields that all bodies have; subclasses build ``requests``.

        Raises:
            ApiError: naming the field.
        """
        if budget is not None and params.own.fixed_steps:
            raise ApiError(
                400,
                f"latency_budget_ms is not supported with {params.own.fixed_by}",
                param="latency_budget_ms",
            )
        self.state, self.params, self.budget = state, params, budget
        id_ = f"{prefix}{state.id_prefix}{secrets.token_hex(12)}"
        self.head = Head(id_, int(time.time()), state.checkpoint.info.name, params.seed)

    @property
    def budget_seconds(self) -> float | None:
        """The latency budget in seconds."""
        return None if self.budget is None else self.budget / 1e3

    def check_choices(self, n: int, prompts: int, field: str = "prompt") -> None:
        """Refuse more choices than the limit, or than the queue can hold.

        Raises:
            ApiError: 400.
        """
        limits.check_choices(self.state.settings, n, prompts, field)
        most = self.state.engine.scheduler.max_waiting
        if n * prompts > most:
            raise ApiError(
                400,
                f"{n * prompts} choices are more than the queue holds, {most}",
                param="n" if n > 1 else field,
            )

    def check_work(self) -> None:
        """Refuse more steps or more work than the limits.

        Raises:
            ApiError: 400.
        """
        steps = max(request.params.steps for request in self.requests)
        lengths = [request.length for request in self.requests]
        limits.check_work(self.state.settings, steps, lengths)

    def submit(self) -> list[Subscription]:
        """Queue all requests, or none of them.

        Raises:
            ApiError: 429 when the queue has no room for them.
        """
        engine = self.state.engine
        try:
            return engine.submit_all(self.requests, _recorded(span_recorder()))
        except QueueFull:
            raise no_place(engine) from None

    async def respond(self, request: Request, stream: bool) -> Response:
        """Run the requests and answer with a JSON body or a stream."""
        # queue before any header is sent, so that a full queue is a 429 and not a broken stream
        subscriptions = self.submit()

        def cancel() -> None:
            for subscription in subscriptions:
                subscription.cancel()

        try:
            readers = await unless_gone(request, self.readers(subscriptions))
        except BaseException:
            cancel()
            raise
        if stream:
            return EventStream(
                self._streamed(request, readers, subscriptions),
                {"X-Accel-Buffering": "no"},
                ping_seconds=self.state.settings.ping_seconds,
                grace_seconds=self.state.settings.shutdown_seconds,
                background=BackgroundTask(cancel),  # if the stream never begins
            )
        try:
            return JsonResponse(await unless_gone(request, self._answer(readers, subscriptions)))
        finally:
            cancel()

    async def _answer(
        self, readers: Sequence[ReaderT], subscriptions: Sequence[Subscription]
    ) -> Mapping[str, object]:
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                if isinstance(event, Failed):
                    raise failure(self.state.engine, event)
                readers[i].take(event)
        return await self.whole(readers)

    async def _streamed(
        self, request: Request, readers: Sequence[ReaderT], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        try:
            async with aclosing(self.stream(readers, subscriptions)) as events:
                async for event in events:
                    if self.failed is not None:
                        request.state.failed = self.failed.code  # for the log
                    yield event
        finally:
            for subscription in subscriptions:
                subscription.cancel()

    async def choices(self, readers: Sequence[ChoiceReader[Choice]]) -> AsyncGenerator[Choice]:
        """The complete choices, after all requests have ended."""
        for reader in readers:
            yield reader.choice()
            await asyncio.sleep(0)  # let other requests run between long choices

    @abstractmethod
    async def whole(self, readers: Sequence[ReaderT]) -> Mapping[str, object]:
        """The answer's body, after all requests have ended."""

    @abstractmethod
    def stream(
        self, readers: Sequence[ReaderT], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        """Server-sent events from the first to the last; a failure is one of them."""

    @abstractmethod
    async def readers(self, subscriptions: Sequence[Subscription]) -> Sequence[ReaderT]:
        """A reader for each choice; ``subscriptions`` are those of ``requests``."""

    @abstractmethod
    def usage(self, readers: Sequence[ReaderT]) -> Usage | ImageUsage:
        """The ``usage`` object of requests that have ended."""

    def cost(self, tallies: Sequence[Tally]) -> DiffusionUsage:
        """The ``usage.diffusion`` object of choices that have ended."""
        tally = Tally.of_all(tallies)
        cost: DiffusionUsage = {
            "steps": tally.steps,
            "forwards": tally.forwards,
            "positions": tally.positions,
            "tokens_per_forward": round(tally.positions / max(1, tally.forwards), 3),
            "unmasked": tally.unmasked,
            "refined": tally.refined,
            "remasked": tally.remasked,
            "queue_ms": round(tally.queue_ms, 3),
            "denoise_ms": round(tally.denoise_ms, 3),
        }
        return cost if self.budget is None else {"steps_asked": self.params.steps, **cost}


def _recorded(record: RecordSpans | None) -> Callable[[Tally], None] | None:
    """Records the tallies of finished requests as spans of their trace."""
    if record is None:
        return None

    def on_done(tally: Tally) -> None:
        record(tally.queue_ms, tally.denoise_ms, {name: getattr(tally, name) for name in COUNTS})

    return on_done


def child_seeds(seed: int, count: int) -> list[int]:
    """A seed for each choice of a prompt; the first is the request's own."""
    seeds = [seed]
    for i in range(1, count):
        digest = hashlib.blake2b(f"{seed}/{i}".encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest) >> 1)
    return seeds


def seeds_of(seed: int, prompts: int, count: int) -> list[list[int]]:
    """Seeds of all choices, by prompt. A negative seed gives every choice of every prompt a
    different seed; any other gives each prompt the seeds that it would get in a request of its own.
    """
    if seed >= 0:
        return [child_seeds(seed, count)] * prompts
    seeds = child_seeds(seed, prompts * count)
    return [seeds[i : i + count] for i in range(0, len(seeds), count)]
