"""What the text routes share: checked requests, their answer, and their stream."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import orjson
from fastapi import Request, Response
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from sampler.params import InvalidParam
from server.choices import default_length
from server.errors import ApiError, error_body
from server.events import Done, Failed, GenerationRequest, Step, Tally
from server.routes.models import check_model
from server.routes.schema import TextFields, refused
from server.scheduler import QueueFull
from server.state import State
from server.stream import SettledText, Text, Trajectory, text_of
from server.subscription import Subscription, merged
from server.wire import Json


@dataclass(frozen=True)
class Prompt:
    """Where a text is to be written.

    Attributes:
        ids: in front of it.
        suffix: ids behind it.
        hole: id of the positions in ``ids`` that are to be filled too, if there may be such.
    """

    ids: list[int]
    suffix: Sequence[int] = ()
    hole: int | None = None

    @property
    def size(self) -> int:
        """Positions that it takes."""
        return len(self.ids) + len(self.suffix)


class Form(Protocol):
    """How a route writes its objects."""

    prefix: ClassVar[str]  # of ids
    whole: ClassVar[str]  # the ``object`` of an answer
    chunk: ClassVar[str]  # and of a piece of a stream

    @staticmethod
    def choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
        """A choice of an answer."""
        ...

    @staticmethod
    def delta(index: int, text: str, reason: str | None) -> dict[str, Any]:
        """The choice of a piece; with no text and no reason it says nothing."""
        ...

    @staticmethod
    def opening(index: int) -> dict[str, Any] | None:
        """A choice's first piece, if it has one of its own."""
        ...


class Generation:
    """A body's checked requests, one for each choice, and the wire objects they turn into."""

    def __init__(
        self, state: State, body: TextFields, form: type[Form], prompts: Sequence[Prompt]
    ) -> None:
        """Check a body.

        Raises:
            ApiError: naming the field.
        """
        self.state, self.form = state, form
        self.model = check_model(state, body.model)
        self.trajectory = body.trajectory == "delta"
        if self.trajectory and not body.stream:
            raise ApiError(400, "trajectory needs stream: true", param="trajectory")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        self.include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.params = body.sampling_params(state.defaults)
        self.stops = body.stop or []
        count = body.n or 1
        wanted, most = count * len(prompts), state.engine.scheduler.max_waiting
        if wanted > most:
            raise ApiError(
                400,
                f"{wanted} choices are more than the queue holds, {most}",
                param="n" if count > 1 else "prompt",
            )
        self.prompt_tokens = sum(prompt.size for prompt in prompts)
        self.requests = [
            self._request(body, prompt, seed)
            for prompt in prompts
            for seed in child_seeds(self.params.seed, count)
        ]
        self.id = f"{form.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def _request(self, body: TextFields, prompt: Prompt, seed: int) -> GenerationRequest:
        settles_early = self.params.sampler != "ancestral"
        wants_steps = self.trajectory or (settles_early and bool(body.stream or self.stops))
        try:
            return GenerationRequest.continuing(
                prompt.ids,
                self._length(body.max_tokens, prompt),
                replace(self.params, seed=seed),
                wants_steps,
                prompt.hole,
                prompt.suffix,
            )
        except InvalidParam as error:
            raise refused(error) from None

    def _length(self, asked: int | None, prompt: Prompt) -> int:
        """Positions to fill behind a prompt; by default the checkpoint's number, as far as the
        canvas has room, or none where the prompt has holes.
        """
        limit = self.state.checkpoint.info.max_length
        room = limit - prompt.size
        has_holes = prompt.hole in prompt.ids
        if asked is None:
            asked = 0 if has_holes else default_length(self.state.defaults, room)
        least = 0 if has_holes else 1
        if asked < least:
            raise ApiError(400, f"max_tokens must be at least {least}", param="max_tokens")
        if asked > room:
            raise ApiError(
                400,
                f"the canvas has {limit} positions; the prompt takes {prompt.size} and "
                f"max_tokens {asked}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return asked

    async def respond(self, request: Request, stream: bool) -> Response:
        """The answer, or the response that streams it."""
        # queue before any header is sent, so that a full queue is a 429 and not a broken stream
        subscriptions = self.submit()

        def cancel() -> None:
            for subscription in subscriptions:
                subscription.cancel()

        if stream:
            return EventSourceResponse(
                self.stream(subscriptions),
                ping=self.state.settings.ping_seconds,
                headers={"X-Accel-Buffering": "no"},
                shutdown_grace_period=self.state.settings.shutdown_seconds,
                background=BackgroundTask(cancel),  # a stream that never began
            )
        try:
            return Json(await _unless_gone(request, self.answer(subscriptions)))
        finally:
            cancel()

    def submit(self) -> list[Subscription]:
        """Queue the requests, all or none.

        Raises:
            ApiError: 429 when the queue has no room for them.
        """
        engine = self.state.engine
        try:
            return engine.submit_all(self.requests)
        except QueueFull:
            if not engine.ready:
                raise ApiError(503, "shutting down", code="not_ready", retry_after=5) from None
            engine.metrics.rejected()
            raise ApiError(429, "the queue is full", code="queue_full", retry_after=1) from None

    async def answer(self, subscriptions: Sequence[Subscription]) -> dict[str, Any]:
        """Wait for all choices; the whole response.

        Raises:
            ApiError: one of them failed.
        """
        readers = [_Reader(self, i, s) for i, s in enumerate(subscriptions)]
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                if isinstance(event, Failed):
                    status = 503 if event.code == "shutting_down" else 500
                    raise ApiError(status, event.message, code=event.code)
                readers[i].take(event)
        texts = [reader.text for reader in readers]
        choices = [self.form.choice(i, t.text, t.reason) for i, t in enumerate(texts)]
        return self.object(self.form.whole, choices, usage=self._usage(readers))

    async def stream(self, subscriptions: Sequence[Subscription]) -> AsyncIterator[dict[str, str]]:
        """SSE events: diffs if asked for, the settled text, the finish, the usage, ``[DONE]``."""
        readers = [_Reader(self, i, s) for i, s in enumerate(subscriptions)]
        try:
            for i in range(len(readers)):
                if (opening := self.form.opening(i)) is not None:
                    yield _event(self.object(self.form.chunk, [opening]))
            async with aclosing(merged(subscriptions)) as events:
                async for i, event in events:
                    if isinstance(event, Failed):
                        yield _event(error_body(500, event.message, None, event.code))
                        break
                    for chunk in readers[i].take(event):
                        yield _event(chunk)
                else:
                    if self.include_usage:
                        usage = self._usage(readers)
                        yield _event(self.object(self.form.chunk, [], usage=usage))
            yield {"data": "[DONE]"}
        finally:
            for subscription in subscriptions:
                subscription.cancel()

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

    def _usage(self, readers: Sequence[_Reader]) -> dict[str, Any]:
        tokens = sum(reader.text.tokens for reader in readers)
        tally = Tally.of_all([reader.tally for reader in readers])
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "diffusion": {
                "steps": tally.steps,
                "forwards": tally.forwards,
                "positions": tally.positions,
                "tokens_per_forward": round(tally.positions / max(1, tally.forwards), 3),
                "unmasked": tally.unmasked,
                "refined": tally.refined,
                "remasked": tally.remasked,
                "queue_ms": round(tally.queue_ms, 3),
                "denoise_ms": round(tally.denoise_ms, 3),
            },
        }


class _Reader:
    """Follows one choice."""

    text: Text
    tally: Tally

    def __init__(self, generation: Generation, index: int, subscription: Subscription) -> None:
        self._generation, self._index, self._subscription = generation, index, subscription
        self._checkpoint = generation.state.checkpoint
        self._metrics = generation.state.engine.metrics
        self._editable = subscription.request.editable
        self._trajectory = Trajectory(self._checkpoint)
        self._settled = SettledText(self._checkpoint, self._editable, generation.stops)
        self._has_settled = False

    def take(self, event: Step | Done) -> list[dict[str, Any]]:
        """An event's pieces; the end sets ``text`` and ``tally``."""
        if isinstance(event, Step):
            return self._step(event)
        self.tally = event.tally
        self.text = text_of(self._checkpoint, event.tokens, self._editable, self._generation.stops)
        self._metrics.succeeded(self.text.reason, self.text.tokens)
        rest = self._settled.last(self.text.text)
        self._first_settled()
        return [*([self._piece(rest)] if rest else []), self._piece("", self.text.reason)]

    def _step(self, step: Step) -> list[dict[str, Any]]:
        pieces = []
        self._trajectory.follow(step)
        if self._generation.trajectory:
            pieces.append(self._piece("", diffusion=self._trajectory.record(step)))
        if text := self._settled.more(self._trajectory.canvas, step.settled):
            self._first_settled()
            pieces.append(self._piece(text))
        if self._settled.stopped:
            self._subscription.finish()
        return pieces

    def _first_settled(self) -> None:
        """Note when the first text could be read."""
        if not self._has_settled:
            self._has_settled = True
            self._metrics.settled(time.monotonic() - self._subscription.submitted)

    def _piece(self, text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
        form = self._generation.form
        delta = form.delta(self._index, text, reason)
        return self._generation.object(form.chunk, [delta], **more)


def child_seeds(seed: int, count: int) -> list[int]:
    """A seed for each choice of a prompt; the first is the request's own."""
    seeds = [seed]
    for i in range(1, count):
        digest = hashlib.blake2b(f"{seed}/{i}".encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest) >> 1)
    return seeds


def _event(data: dict[str, Any]) -> dict[str, str]:
    return {"data": orjson.dumps(data).decode()}


async def _unless_gone(
    request: Request, waiting: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any]:
    """Wait for an answer; a client that hangs up cancels the wait."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    result = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ApiError(499, "client closed the request", code="cancelled")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()
