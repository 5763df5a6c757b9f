"""Responses of trajectory routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.responses.common import Generated, ImageGrid, MaskToken, Usage
from server.api.schemas.responses.images import ImageUsage
from server.api.schemas.responses.openapi import ERRORS
from server.api.schemas.responses.text import TextChoice
from server.http.errors import Error
from server.http.json_response import Answer
from server.output.records import StepRecord
from server.trajectories.recording import Failed


class RecordedChoice(Answer):
    """A canvas at the start of denoising."""

    index: int
    seed: int
    positions: int
    editable: Annotated[
        list[list[int]], Field(description="ranges: first position, and one past the last")
    ]


class Origin(Answer):
    """Fields of ``Created`` that the route adds to those of the run."""

    request_id: str
    request: Annotated[dict[str, Any], Field(description="a body that reproduces the same tokens")]
    mask: Annotated[MaskToken | None, Field(description="null for a model of uniform noise alone")]
    ends: Annotated[list[int], Field(description="ids that end a text")]
    image: Annotated[ImageGrid | None, Field(description="size of the images; null for text")]


class Begun(Generated):
    """Fields of ``Created`` that follow from the run."""

    object: Literal["diffusion.trajectory"]
    choices: list[RecordedChoice]


class Created(Begun, Origin):
    """diffusion.created: the request with all defaults filled in."""


class RecordedStep(StepRecord):
    """diffusion.step: the changes of a step."""

    choice: int
    elapsed_ms: float


class Block(Answer):
    """diffusion.block: a block can no longer change."""

    choice: int
    elapsed_ms: float
    block: int
    step: int


class FinishedChoice(TextChoice):
    """A finished text and its canvas."""

    ids: Annotated[list[int], Field(description="token ids of the whole canvas")]


class FinishedImage(Answer):
    """A finished image and its canvas."""

    index: int
    b64_json: Annotated[str, Field(description="a PNG")]
    finish_reason: Literal["stop"]
    ids: list[int]


class Completed(Generated):
    """diffusion.completed: the run succeeded."""

    object: Literal["diffusion.trajectory"]
    choices: list[FinishedChoice] | list[FinishedImage]
    usage: Usage | ImageUsage
    elapsed_ms: float


class Event(Answer):
    """An event of a trajectory."""

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
    """The events of a trajectory, from the first requested one to the last."""

    id: str
    events: list[Event]


class Deleted(Answer):
    """Result of deleting a trajectory."""

    id: str
    object: Literal["diffusion.trajectory"]
    status: Literal["cancelled", "deleted"]


RECORDED = {
    404: "the model or the trajectory does not exist",
    406: "Accept allows none of the three media types",
}
HEADERS: list[dict[str, Any]] = [
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "id of the last event received; the response starts after it",
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
    """The ``responses`` of a route that returns a recording."""
    event = {"$ref": "#/components/schemas/Event"}
    text: dict[str, Any] = {"type": "string"}
    inner = {"$ref": event["$ref"] + "/properties/data"}
    data = {**text, "contentMediaType": "application/json", "contentSchema": inner}
    sent = {"type": "object", "properties": {"id": text, "event": text, "data": data}}
    good = {
        "model": Trajectory,
        "description": "the events, in the media type that Accept selects",
        "content": {
            "text/event-stream": {"itemSchema": sent},
            "application/x-ndjson": {"itemSchema": event},
        },
    }
    seen = {204: {"description": "no event follows Last-Event-ID"}}
    failed = {
        status: {"model": Error, "description": RECORDED.get(status, ERRORS.get(status))}
        for status in errors
    }
    return {200: good, **seen, **failed}
