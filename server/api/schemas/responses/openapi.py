"""The responses of a route, as FastAPI takes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.api.schemas.responses.common import Error
from server.api.schemas.responses.images import ImageStreamEvent
from server.api.schemas.responses.text import ChatCompletionChunk, CompletionChunk

ERRORS = {
    400: "a field has a bad value, or asks for more than a limit",
    401: "the API key is missing or wrong",
    404: "there is no such model",
    413: "the body is too large",
    429: "the queue is full; see Retry-After",
    500: "our fault; the message has the request's id",
    503: "loading or shutting down; see Retry-After",
}
ASKING = (400, 401, 404, 413, 500)
"""Errors of a route that takes a body."""
GENERATING = (*ASKING, 429, 503)
"""Errors of a route that queues work."""
STREAMED: tuple[type[BaseModel], ...] = (CompletionChunk, ChatCompletionChunk, ImageStreamEvent)
"""What events of streams hold; the specification names them beside the routes' own answers."""


def says(
    model: type[BaseModel], *errors: int, stream: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: its answer, its errors, and what each event of its stream holds
    (one of ``STREAMED``).
    """
    good: dict[str, Any] = {"model": model, "description": (model.__doc__ or "").strip()}
    if stream is not None:
        kinds = [{"$ref": f"#/components/schemas/{m.__name__}"} for m in (stream, Error)]
        chunk = {"contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
        data = {"type": "string", "if": {"not": {"const": "[DONE]"}}, "then": chunk}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        good["content"] = {"text/event-stream": {"itemSchema": event}}
    failed = {status: {"model": Error, "description": ERRORS[status]} for status in errors}
    return {200: good, **failed}
