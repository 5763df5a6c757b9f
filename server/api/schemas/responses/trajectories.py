"""What the trajectory routes answer, and their responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from server.api.schemas.responses.common import (
    Answer,
    Error,
    FinishReason,
    Generated,
    ImageGrid,
    MaskToken,
    Problem,
    StepRecord,
    Usage,
)
from server.api.schemas.responses.images import ImageUsage
from server.api.schemas.responses.openapi import ERRORS
from server.api.schemas.responses.text import TextChoice


class RecordedChoice(Answer):
    """A canvas that is to be denoised."""

    index: int
    seed: int
    positions: int
    editable: list[list[int]] = Field(description="first position, and the one behind")


class Created(Generated):
    """diffusion.created: what was asked for, all that was left open filled in."""

    object: Literal["diffusion.trajectory"]
    choices: list[RecordedChoice]
    request_id: str
    request: dict[str, Any] = Field(description="a body that gives the same tokens again")
    mask: MaskToken
    ends: list[int] = Field(description="ids that end a text")
    image: ImageGrid | None = Field(description="what the canvases are; null for text")


class RecordedStep(StepRecord):
    """diffusion.step: what a step changed."""

    choice: int
    elapsed_ms: float


class Block(Answer):
    """diffusion.block: a block can no longer change."""

    choice: int
    elapsed_ms: float
    block: int
    step: int


class FinishedChoice(TextChoice):
    """A text and its canvas."""

    finish_reason: FinishReason
    ids: list[int] = Field(description="of the whole canvas")


class FinishedImage(Answer):
    """An image and its canvas."""

    index: int
    b64_json: str = Field(description="a PNG")
    finish_reason: Literal["stop"]
    ids: list[int]


class Completed(Generated):
    """diffusion.completed: it ended well."""

    object: Literal["diffusion.trajectory"]
    choices: list[FinishedChoice] | list[FinishedImage]
    usage: Usage | ImageUsage
    elapsed_ms: float


class Failed(Answer):
    """diffusion.failed: it did not."""

    id: str
    elapsed_ms: float
    error: Problem


class Event(Answer):
    """One event."""

    event: Literal[
        "diffusion.created",
        "diffusion.step",
        "diffusion.block",
        "diffusion.completed",
        "diffusion.failed",
    ]
    id: str
    data: Created | RecordedStep | Block | Completed | Failed


class Trajectory(Answer):
    """All events, from the first that was asked for to the last."""

    id: str
    events: list[Event]


class Deleted(Answer):
    """What became of it."""

    id: str
    object: Literal["diffusion.trajectory"]
    status: Literal["cancelled", "deleted"]


RECORDED = {
    404: "there is no such model, or no such trajectory any more",
    406: "Accept allows none of the three forms",
}
HEADERS: list[dict[str, Any]] = [
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "the last event that was seen; the answer begins behind it",
        "schema": {"type": "string"},
    },
    {
        "name": "Accept",
        "in": "header",
        "description": "server-sent events, lines of JSON or one document",
        "schema": {
            "type": "string",
            "enum": ["text/event-stream", "application/x-ndjson", "application/json"],
        },
    },
]


def recorded(*errors: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that answers with a recording."""
    event = {"$ref": "#/components/schemas/Event"}
    text: dict[str, Any] = {"type": "string"}
    inner = {"$ref": event["$ref"] + "/properties/data"}
    data = {**text, "contentMediaType": "application/json", "contentSchema": inner}
    sent = {"type": "object", "properties": {"id": text, "event": text, "data": data}}
    good = {
        "model": Trajectory,
        "description": "the events, in the form that Accept asks for",
        "content": {
            "text/event-stream": {"itemSchema": sent},
            "application/x-ndjson": {"itemSchema": event},
        },
    }
    seen = {204: {"description": "nothing came behind the event that was seen"}}
    failed = {
        status: {"model": Error, "description": RECORDED.get(status, ERRORS.get(status))}
        for status in errors
    }
    return {200: good, **seen, **failed}
