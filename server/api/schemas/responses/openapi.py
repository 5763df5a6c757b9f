"""Declarations of routes' responses for FastAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.api.schemas.responses.anthropic_messages import MESSAGE_EVENTS
from server.api.schemas.responses.images import ImageStreamEvent
from server.api.schemas.responses.openai_responses import RESPONSE_EVENTS
from server.api.schemas.responses.text import ChatCompletionChunk, CompletionChunk
from server.http.errors import Error
from server.http.json_response import Answer

ERRORS = {
    400: "a field is invalid or exceeds a limit",
    401: "the API key is missing or wrong",
    404: "the model does not exist",
    413: "the body is too large",
    429: "the queue is full; see Retry-After",
    500: "internal error; the message names the request id",
    503: "loading or shutting down; see Retry-After",
}
ASKING = (400, 401, 404, 413, 500)
"""Error statuses of a route with a request body."""
GENERATING = (*ASKING, 429, 503)
"""Error statuses of a route that queues work."""
STREAMED: tuple[type[Answer], ...] = (
    *(CompletionChunk, ChatCompletionChunk, ImageStreamEvent),
    *(*RESPONSE_EVENTS, *MESSAGE_EVENTS),
)
"""Data of stream events; schemas that the specification lists besides the routes' responses."""


def says(
    model: type[Answer],
    *errors: int,
    stream: type[Answer] | Sequence[type[Answer]] = (),
    error: type[Answer] = Error,
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for FastAPI.

    Args:
        model: of the response body.
        *errors: statuses of errors.
        stream: data of each event of the route's stream, one of ``STREAMED``; or of several kinds
            of named events.
        error: body of errors, also within the stream.
    """
    good: dict[str, Any] = {"model": model, "description": (model.__doc__ or "").strip()}
    named = isinstance(stream, Sequence)
    if streamed := [*stream] if named else [stream]:
        kinds = [{"$ref": f"#/components/schemas/{m.__name__}"} for m in (*streamed, error)]
        chunk = {"contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
        data = {"type": "string", "if": {"not": {"const": "[DONE]"}}, "then": chunk}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        if named:
            event["properties"] |= {"event": {"type": "string"}}
            event["required"] = ["event", "data"]
        good["content"] = {"text/event-stream": {"itemSchema": event}}
    failed = {status: {"model": error, "description": ERRORS[status]} for status in errors}
    return {200: good, **failed}
