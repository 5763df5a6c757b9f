"""What the text routes share: one checked request, its answer, and its stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from sampler.params import InvalidParam
from server.choices import default_length
from server.errors import ApiError, error_body
from server.events import Done, Failed, GenerationRequest, Step, Tally
from server.routes.models import check_model
from server.routes.schema import DiffusionFields, refused
from server.scheduler import QueueFull
from server.state import State
from server.stream import SettledText, Text, Trajectory, text_of
from server.subscription import Subscription
from server.wire import Json


class StreamOptions(BaseModel):
    """OpenAI's stream options."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False


StopStrings = Annotated[
    list[Annotated[StrictStr, Field(min_length=1, max_length=256)]],
    Field(max_length=4),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
]


class TextFields(DiffusionFields):
    """Fields of every route that answers with text."""

    neutral: ClassVar = {
        "n": (1,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "diffusing": (False,),
        "class_label": (),
        "latency_budget_ms": (),
    }

    model: str | None = None
    max_tokens: StrictInt | None = None
    user: str | None = None
    stop: StopStrings | None = None
    stream_options: StreamOptions | None = None


class Form(Protocol):
    """How a route writes its objects."""

    prefix: ClassVar[str]  # of ids
    whole: ClassVar[str]  # the ``object`` of an answer
    chunk: ClassVar[str]  # and of a piece of a stream

    @staticmethod
    def choice(text: str, reason: str | None) -> dict[str, Any]:
        """The choice of an answer."""
        ...

    @staticmethod
    def delta(text: str, reason: str | None) -> dict[str, Any]:
        """The choice of a piece; with no text and no reason it says nothing."""
        ...

    @staticmethod
    def opening() -> dict[str, Any] | None:
        """The choice of a stream's first piece, if it has one of its own."""
        ...


class Generation:
    """One checked request, and the wire objects it turns into."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        form: type[Form],
        prompt: list[int],
        hole: int | None = None,
        suffix: Sequence[int] = (),
    ) -> None:
        """Check a request.

        Args:
            state: what it is checked against.
            body: its fields.
            form: how it is answered.
            prompt: ids in front of the text.
            hole: id of the prompt positions that are to be filled, if there may be such.
            suffix: ids behind the text.

        Raises:
            ApiError: naming the field.
        """
        self.state, self.form, self.given = state, form, len(prompt) + len(suffix)
        self.model = check_model(state, body.model)
        self.trajectory = body.trajectory == "delta"
        if self.trajectory and not body.stream:
            raise ApiError(400, "trajectory needs stream: true", param="trajectory")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        self.include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.params = body.sampling_params(state.defaults)
        length = self._length(body.max_tokens, hole is not None and hole in prompt)
        self.stops = body.stop or []
        settles_early = self.params.sampler != "ancestral"
        wants_steps = self.trajectory or (settles_early and bool(body.stream or self.stops))
        try:
            self.request = GenerationRequest.continuing(
                prompt, length, self.params, wants_steps, hole, suffix
            )
        except InvalidParam as error:
            raise refused(error) from None
        self.id = f"{form.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.settled_seen = False

    def _length(self, asked: int | None, has_holes: bool) -> int:
        """Positions to fill behind the prompt; by default the checkpoint's number, as far as the
        canvas has room, or none where the prompt has holes.
        """
        limit = self.state.checkpoint.info.max_length
        room = limit - self.given
        if asked is None:
            asked = 0 if has_holes else default_length(self.state.defaults, room)
        least = 0 if has_holes else 1
        if asked < least:
            raise ApiError(400, f"max_tokens must be at least {least}", param="max_tokens")
        if asked > room:
            raise ApiError(
                400,
                f"the canvas has {limit} positions; the prompt takes {self.given} and "
                f"max_tokens {asked}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return asked

    async def respond(self, request: Request, stream: bool) -> Response:
        """The answer, or the response that streams it."""
        if stream:
            # queue before any header is sent, so that a full queue is a 429 and not a broken stream
            subscription = self.submit()
            return EventSourceResponse(
                self.stream(subscription),
                ping=self.state.settings.ping_seconds,
                headers={"X-Accel-Buffering": "no"},
                shutdown_grace_period=self.state.settings.shutdown_seconds,
                background=BackgroundTask(subscription.cancel),  # a stream that never began
            )
        event = await _unless_gone(request, self._result(self.submit()))
        if isinstance(event, Failed):
            raise ApiError(
                503 if event.code == "shutting_down" else 500, event.message, code=event.code
            )
        return Json(self.answer(event))

    async def _result(self, subscription: Subscription) -> Done | Failed:
        """Wait for the end; a stop string that has settled brings it about."""
        canvas: list[int] = []
        settled = SettledText(self.state.checkpoint, self.request.editable, self.stops)

        def look(step: Step) -> None:
            nonlocal canvas
            canvas = step.applied_to(canvas)
            settled.more(canvas, step.settled)
            if settled.stopped:
                subscription.finish()

        return await subscription.result(look)

    def submit(self) -> Subscription:
        """Queue the request.

        Raises:
            ApiError: 429 when the queue is full.
        """
        engine = self.state.engine
        try:
            return engine.submit(self.request)
        except QueueFull:
            if not engine.ready:
                raise ApiError(503, "shutting down", code="not_ready", retry_after=5) from None
            engine.metrics.rejected()
            raise ApiError(429, "the queue is full", code="queue_full", retry_after=1) from None

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "seed": self.params.seed,
            **more,
        }

    def _piece(self, text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
        return self._object(self.form.chunk, [self.form.delta(text, reason)], **more)

    def _usage(self, tokens: int, tally: Tally) -> dict[str, Any]:
        return {
            "prompt_tokens": self.given,
            "completion_tokens": tokens,
            "total_tokens": self.given + tokens,
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

    def _finished(self, done: Done) -> Text:
        found = text_of(self.state.checkpoint, done.tokens, self.request.editable, self.stops)
        self.state.engine.metrics.succeeded(found.reason, found.tokens)
        return found

    def answer(self, done: Done) -> dict[str, Any]:
        """The whole response."""
        found = self._finished(done)
        choice = self.form.choice(found.text, found.reason)
        usage = self._usage(found.tokens, done.tally)
        return self._object(self.form.whole, [choice], usage=usage)

    async def stream(self, subscription: Subscription) -> AsyncIterator[dict[str, str]]:
        """SSE events: diffs if asked for, the settled text, the finish, the usage, ``[DONE]``."""
        trajectory = Trajectory(self.state.checkpoint)
        settled = SettledText(self.state.checkpoint, self.request.editable, self.stops)
        try:
            if (opening := self.form.opening()) is not None:
                yield _event(self._object(self.form.chunk, [opening]))
            async for event in subscription:
                if isinstance(event, Step):
                    trajectory.follow(event)
                    if self.trajectory:
                        yield _event(self._piece("", diffusion=trajectory.record(event)))
                    if text := settled.more(trajectory.canvas, event.settled):
                        self._first_settled(subscription)
                        yield _event(self._piece(text))
                    if settled.stopped:
                        subscription.finish()
                elif isinstance(event, Failed):
                    yield _event(error_body(500, event.message, None, event.code))
                else:
                    for chunk in self._last_chunks(event, subscription, settled):
                        yield _event(chunk)
            yield {"data": "[DONE]"}
        finally:
            subscription.cancel()

    def _first_settled(self, subscription: Subscription) -> None:
        """Note when the first text could be read."""
        if not self.settled_seen:
            self.settled_seen = True
            self.state.engine.metrics.settled(time.monotonic() - subscription.submitted)

    def _last_chunks(
        self, done: Done, subscription: Subscription, settled: SettledText
    ) -> list[dict[str, Any]]:
        found = self._finished(done)
        text = settled.last(found.text)
        self._first_settled(subscription)
        chunks = [self._piece(text)] if text else []
        chunks.append(self._piece("", found.reason))
        if self.include_usage:
            usage = self._usage(found.tokens, done.tally)
            chunks.append(self._object(self.form.chunk, [], usage=usage))
        return chunks


def _event(data: dict[str, Any]) -> dict[str, str]:
    return {"data": orjson.dumps(data).decode()}


async def _unless_gone(
    request: Request, waiting: Coroutine[Any, Any, Done | Failed]
) -> Done | Failed:
    """Wait for the end; a client that hangs up cancels the wait."""

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
