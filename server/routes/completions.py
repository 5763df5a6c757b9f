"""POST /v1/completions: text behind a prompt, at once or as a stream, with its trajectory on
request.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from sampler.params import InvalidParam, SamplingParams
from server.choices import default_length
from server.errors import ApiError, error_body
from server.events import Done, Failed, GenerationRequest, Step, Tally
from server.routes.models import check_model
from server.routes.schema import DiffusionFields, refused
from server.scheduler import QueueFull
from server.state import State
from server.stream import SettledText, Trajectory, finished_text
from server.subscription import Subscription
from server.wire import Json

router = APIRouter(prefix="/v1/completions")


class StreamOptions(BaseModel):
    """OpenAI's stream options."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False


class CompletionBody(DiffusionFields):
    """The body of POST /v1/completions."""

    neutral: ClassVar = {
        "n": (1,),
        "best_of": (1,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "logprobs": (),
        "echo": (False,),
        "stop": ([],),
        "suffix": ("",),
        "diffusing": (False,),
        "class_label": (),
        "latency_budget_ms": (),
    }

    model: str | None = None
    prompt: str | list[str]
    max_tokens: StrictInt | None = None
    user: str | None = None
    stream_options: StreamOptions | None = None

    def text(self) -> str:
        """The one prompt.

        Raises:
            ApiError: 400 for several.
        """
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) != 1:
            raise ApiError(
                400, "prompt must be one string", param="prompt", code="unsupported_value"
            )
        return self.prompt[0]


@router.post("")
async def complete(body: CompletionBody, request: Request) -> Response:
    """Generate a completion."""
    completion = _Completion(State.of(request), body)
    if body.stream:
        # queue before any header is sent, so that a full queue is a 429 and not a broken stream
        subscription = completion.submit()
        return EventSourceResponse(
            completion.stream(subscription),
            ping=completion.state.settings.ping_seconds,
            headers={"X-Accel-Buffering": "no"},
            shutdown_grace_period=completion.state.settings.shutdown_seconds,
            background=BackgroundTask(subscription.cancel),  # a stream that never began
        )
    event = await _unless_gone(request, completion.submit())
    if isinstance(event, Failed):
        raise ApiError(
            503 if event.code == "shutting_down" else 500, event.message, code=event.code
        )
    return Json(completion.answer(event))


class _Completion:
    """One checked request, and the wire objects it turns into."""

    def __init__(self, state: State, body: CompletionBody) -> None:
        self.state = state
        self.model = check_model(state, body.model)
        self.trajectory = body.trajectory == "delta"
        if self.trajectory and not body.stream:
            raise ApiError(400, "trajectory needs stream: true", param="trajectory")
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        self.include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.params: SamplingParams = body.sampling_params(state.defaults)
        try:
            self.prompt = state.checkpoint.tokenizer.encode(body.text())
        except UnicodeEncodeError:
            raise ApiError(400, "prompt is not valid Unicode text", param="prompt") from None
        self.length = self._length(body.max_tokens)
        wants_steps = self.trajectory or bool(body.stream and self.params.sampler != "ancestral")
        try:
            self.request = GenerationRequest.continuing(
                self.prompt, self.length, self.params, wants_steps
            )
        except InvalidParam as error:
            raise refused(error) from None
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.settled_seen = False

    def _length(self, asked: int | None) -> int:
        """Positions to fill; by default the checkpoint's, as far as the canvas has room."""
        limit = self.state.checkpoint.info.max_length
        room = limit - len(self.prompt)
        if asked is None:
            asked = default_length(self.state.defaults, room)
        if asked < 1:
            raise ApiError(400, "max_tokens must be at least 1", param="max_tokens")
        if asked > room:
            raise ApiError(
                400,
                f"the canvas has {limit} positions; the prompt takes {len(self.prompt)} and "
                f"max_tokens {asked}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return asked

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

    def _object(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "seed": self.params.seed,
            **more,
        }

    def _usage(self, tokens: int, tally: Tally) -> dict[str, Any]:
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": tokens,
            "total_tokens": len(self.prompt) + tokens,
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

    def answer(self, done: Done) -> dict[str, Any]:
        """The whole response."""
        text, count, reason = finished_text(self.state.checkpoint, done.tokens, len(self.prompt))
        self.state.engine.metrics.succeeded(reason, count)
        return self._object([_choice(text, reason)], usage=self._usage(count, done.tally))

    async def stream(self, subscription: Subscription) -> AsyncIterator[dict[str, str]]:
        """SSE events: diffs if asked for, the settled text, the finish, the usage, ``[DONE]``."""
        trajectory = Trajectory(self.state.checkpoint)
        settled = SettledText(self.state.checkpoint, len(self.prompt))
        try:
            async for event in subscription:
                if isinstance(event, Step):
                    trajectory.follow(event)
                    if self.trajectory:
                        record = trajectory.record(event)
                        yield _event(self._object([_choice("", None)], diffusion=record))
                    if text := settled.more(trajectory.canvas, event.settled):
                        self._first_settled(subscription)
                        yield _event(self._object([_choice(text, None)]))
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
        whole, count, reason = finished_text(self.state.checkpoint, done.tokens, len(self.prompt))
        text = settled.last(whole)
        self._first_settled(subscription)
        self.state.engine.metrics.succeeded(reason, count)
        chunks = [self._object([_choice(text, None)])] if text else []
        chunks.append(self._object([_choice("", reason)]))
        if self.include_usage:
            chunks.append(self._object([], usage=self._usage(count, done.tally)))
        return chunks


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _event(data: dict[str, Any]) -> dict[str, str]:
    return {"data": orjson.dumps(data).decode()}


async def _unless_gone(request: Request, subscription: Subscription) -> Done | Failed:
    """Wait for the end; a client that hangs up cancels the request."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    result = asyncio.ensure_future(subscription.result())
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ApiError(499, "client closed the request", code="cancelled")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()
