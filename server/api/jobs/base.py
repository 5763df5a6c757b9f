"""The requests of one body, one for each choice, on their way through the engine."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from starlette.background import BackgroundTask

from sampler.params import SamplingParams
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.waiting import failure, no_place, unless_gone
from server.engine.events import Failed, GenerationRequest, Tally
from server.engine.scheduler import QueueFull
from server.engine.stream import Subscription, merged
from server.http.errors import ApiError
from server.http.json_response import JsonResponse
from server.http.sse import EventStream
from server.http.tracing import RecordSpans, span_recorder

COUNTS = ("steps", "forwards", "positions", "unmasked", "refined", "remasked")
"""Fields of ``Tally`` that traces show."""


class Run(ABC):
    """Checked requests, and what all answers to them say.

    Attributes:
        state: of the application, seen from the model.
        params: of the body; each choice has its own seed.
        requests: one for each choice.
        budget: milliseconds, where one was chosen.
        id, created, model: as the wire has them.
        failed: what ended a stream after its headers.
    """

    requests: list[GenerationRequest]
    failed: Failed | None = None

    def __init__(
        self, state: State, prefix: str, params: SamplingParams, budget: float | None
    ) -> None:
        """Check what all bodies have; ``requests`` are made by those who inherit.

        Raises:
            ApiError: naming the field.
        """
        if budget is not None and params.own.fixed_steps:
            raise ApiError(
                400, "latency_budget_ms is not for compat: official", param="latency_budget_ms"
            )
        self.state, self.params, self.budget = state, params, budget
        self.model = state.checkpoint.info.name
        self.id = f"{prefix}-{state.mark}{secrets.token_hex(12)}"
        self.created = int(time.time())

    @property
    def budget_seconds(self) -> float | None:
        """What the engine is told."""
        return None if self.budget is None else self.budget / 1e3

    def check_choices(self, n: int, prompts: int) -> None:
        """Refuse more choices than there may be, or than the queue will ever hold.

        Raises:
            ApiError: 400.
        """
        limits.check_choices(self.state.settings, n, prompts)
        most = self.state.engine.scheduler.max_waiting
        if n * prompts > most:
            raise ApiError(
                400,
                f"{n * prompts} choices are more than the queue holds, {most}",
                param="n" if n > 1 else "prompt",
            )

    def check_work(self) -> None:
        """Refuse too much work.

        Raises:
            ApiError: 400.
        """
        lengths = [len(request.tokens) for request in self.requests]
        limits.check_work(self.state.settings, self.params.steps, lengths)

    def submit(self) -> list[Subscription]:
        """Queue the requests, all or none.

        Raises:
            ApiError: 429 when the queue has no room for them.
        """
        engine = self.state.engine
        try:
            return engine.submit_all(self.requests, _recorded(span_recorder()))
        except QueueFull:
            raise no_place(engine) from None

    async def respond(self, request: Request, stream: bool) -> Response:
        """The answer, or the response that streams it."""
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
                background=BackgroundTask(cancel),  # a stream that never began
            )
        try:
            return JsonResponse(await unless_gone(request, self._answer(readers, subscriptions)))
        finally:
            cancel()

    async def _answer(
        self, readers: Sequence[Any], subscriptions: Sequence[Subscription]
    ) -> dict[str, Any]:
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                if isinstance(event, Failed):
                    raise failure(self.state.engine, event)
                readers[i].take(event)
        return await self.whole(readers)

    async def _streamed(
        self, request: Request, readers: Sequence[Any], subscriptions: Sequence[Subscription]
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

    async def choices(self, readers: Sequence[Any]) -> list[dict[str, Any]]:
        """The choices as the wire has them, when all requests have ended."""
        found = []
        for reader in readers:
            found.append(reader.choice())
            await asyncio.sleep(0)  # many long ones leave room for others
        return found

    @abstractmethod
    async def whole(self, readers: Sequence[Any]) -> dict[str, Any]:
        """The answer, when all requests have ended."""

    @abstractmethod
    def stream(
        self, readers: Sequence[Any], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        """Server-sent events from the first to the last; a failure is one of them."""

    @abstractmethod
    async def readers(self, subscriptions: Sequence[Subscription]) -> Sequence[Any]:
        """Who follows each request: an object with ``take``, ``follow``, ``end``, ``choice``,
        ``trajectory`` and, after the end, ``canvas`` and ``tally``.
        """

    @abstractmethod
    def usage(self, readers: Sequence[Any]) -> dict[str, Any]:
        """What the requests of some readers cost; they have ended."""

    def object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A wire object of this answer."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "seed": self.params.seed,
            **more,
        }

    def cost(self, tallies: Sequence[Tally]) -> dict[str, Any]:
        """``usage.diffusion`` of choices that have ended."""
        tally = Tally.of_all(tallies)
        asked = {} if self.budget is None else {"steps_asked": self.params.steps}
        return {
            **asked,
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
    """Seeds of all choices, by prompt. From a negative seed every choice of every prompt gets one
    of its own; from any other, each prompt's choices get those that they would get alone.
    """
    if seed >= 0:
        return [child_seeds(seed, count)] * prompts
    seeds = child_seeds(seed, prompts * count)
    return [seeds[i : i + count] for i in range(0, len(seeds), count)]
