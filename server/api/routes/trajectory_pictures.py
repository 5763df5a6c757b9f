"""POST /v1/diffusion/pictures: recorded trajectories as a GIF or a PNG."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from models.checkpoints.load import Checkpoint
from models.images.pixels import pixels
from server.api.context import State
from server.api.jobs.limits import exceeded
from server.api.schemas.responses.common import Error
from server.api.schemas.responses.openapi import ASKING, says
from server.api.schemas.strict import StrictBody
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.output.png import sheet_of
from server.trajectories.render import moving, size_of, still
from server.trajectories.replay import Film, Frame

router = APIRouter(prefix="/v1/diffusion/pictures", tags=["images"], route_class=JsonRoute)

SIDE = 200  # pixels of an image's longer side, about
COLUMNS = 4
PICTURE: dict[int | str, dict[str, Any]] = {
    **says(Error, *ASKING),
    200: {
        "description": "the picture",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/gif", "image/png")
        },
    },
}


class Recorded(BaseModel):
    """A trajectory as its own route gives it (``Accept: application/json``)."""

    model_config = ConfigDict(extra="forbid")
    id: str | None = None
    events: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(min_length=1)


class PictureBody(StrictBody):
    """The body of POST /v1/diffusion/pictures."""

    format: Literal["gif", "png"] = "gif"
    runs: Annotated[list[Recorded], Field(fail_fast=True)] = Field(min_length=1, max_length=4)


@router.post(
    "", summary="Draw trajectories", response_model=None, response_class=Response, responses=PICTURE
)
async def draw(body: PictureBody, request: Request) -> Response:
    """Trajectories side by side, at the same share of their steps: moving, or some states of them.
    One picture is drawn at a time.
    """
    state = State.of(request)
    try:
        films = [await asyncio.to_thread(Film.of, run.events) for run in body.runs]
    except ValueError as error:
        raise ApiError(400, f"runs: {error}", param="runs", code="invalid_value") from None
    most = state.settings.max_picture_frames
    frames = min(most if body.format == "gif" else 9, max(film.length for film in films))
    pixels_asked, limit = size_of(films, frames), state.settings.max_picture_pixels
    if pixels_asked > limit:
        raise exceeded("runs", "the picture's size in pixels, all frames,", pixels_asked, limit)
    sheet = _Sheets(state)
    for film in films:
        sheet.check(film)
    async with state.pictures:
        if body.format == "gif":
            made = await asyncio.to_thread(moving, films, sheet, most)
        else:
            made = await asyncio.to_thread(still, films, sheet)
    return Response(made, media_type=f"image/{body.format}")


class _Sheets:
    """Draws images: by their ids alone, or by the decoder of a served model."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _decoder(self, film: Film) -> Checkpoint | None:
        """The model that made the film, if it is served and its images are of that size."""
        engine = self._state.engines.get(film.model)
        shape = None if engine is None else engine.checkpoint.info.image
        if engine is None or shape is None or shape.length != len(film.editable[0]):
            return None
        return engine.checkpoint

    def check(self, film: Film) -> None:
        """Whether its canvases can be drawn.

        Raises:
            ApiError: 400.
        """
        if film.grid is None:
            return
        shape = film.shape()
        sizes = {len(editable) for editable in film.editable}
        if shape is None and self._decoder(film) is None:
            message = f"runs: only a server of {film.model[:64]!r} can draw its codes"
            raise ApiError(400, message, param="runs", code="invalid_value")
        if shape is not None and sizes != {shape.length}:
            message = f"runs: a canvas of another size than its images, {shape.length}"
            raise ApiError(400, message, param="runs", code="invalid_value")

    def __call__(self, film: Film, frames: Sequence[Frame]) -> Image.Image:
        ids = torch.tensor([frame.ids for frame in frames])
        shape = film.shape()
        if shape is None:
            checkpoint = self._decoder(film)
            assert checkpoint is not None  # checked
            shape = checkpoint.check_pixels()
            drawn = checkpoint.pixels(ids.clamp(max=shape.levels - 1))
        else:
            drawn = pixels(ids, shape, None)
        scale = max(1, SIDE // max(shape.size))
        return sheet_of(ids, drawn, shape, min(COLUMNS, len(ids)), scale)
