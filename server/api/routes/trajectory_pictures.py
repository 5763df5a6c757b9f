"""POST /v1/diffusion/pictures: recorded trajectories as a GIF or a PNG."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.context import State
from server.api.jobs.waiting import unless_gone
from server.api.schemas.responses.openapi import ASKING, says
from server.api.schemas.strict import StrictBody
from server.http.errors import Error
from server.http.json_body import JsonRoute, check_type, whole_body

router = APIRouter(prefix="/v1/diffusion/pictures", tags=["images"], route_class=JsonRoute)

NOTE = "X-Picture-Note"
"""Header with a sentence about what was left out to make a picture fit."""
PICTURE: dict[int | str, dict[str, Any]] = {
    **says(Error, *ASKING, 429),
    200: {
        "description": "the picture",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/gif", "image/png")
        },
    },
}


class Recorded(BaseModel):
    """A recorded trajectory, as its route returns it with ``Accept: application/json``."""

    model_config = ConfigDict(extra="forbid")
    id: str | None = None
    events: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(min_length=1)


class PictureBody(StrictBody):
    """The body of POST /v1/diffusion/pictures, for the specification: the process that draws the
    picture reads it (``server.trajectories.picture_worker``).
    """

    format: Literal["gif", "png"] = "gif"
    theme: Literal["light", "dark"] = "light"
    sync: Literal["progress", "time"] = "progress"
    runs: Annotated[list[Recorded], Field(fail_fast=True)] = Field(min_length=1, max_length=4)


BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PictureBody"}}},
    }
}


@router.post(
    "",
    summary="Render trajectories",
    response_model=None,
    response_class=Response,
    responses=PICTURE,
    openapi_extra=BODY,
)
async def draw(request: Request) -> Response:
    """Trajectories side by side, at the same share of their steps or at the same time: moving, or
    some states of them. One picture is drawn at a time, by a process of its own.
    """
    check_type(request)
    state, body = State.of(request), await whole_body(request)
    models = {name: engine.checkpoint for name, engine in state.engines.items()}
    settings = state.settings
    drawn = state.pictures.draw(
        body, settings.max_picture_frames, settings.max_picture_pixels, models
    )
    made = await unless_gone(request, drawn)
    headers = {NOTE: made.note} if made.note else {}
    return Response(made.data, headers=headers, media_type=f"image/{made.form}")
