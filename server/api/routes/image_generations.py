"""POST /v1/images/generations: images of a class, complete or streamed with partial images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, StrictStr

from server.api.context import State
from server.api.jobs.image import ImageJob, label_of, native_size
from server.api.routes.models import image_model
from server.api.schemas.neutral import IMAGE
from server.api.schemas.requests import DiffusionFields
from server.api.schemas.responses.images import Images, ImageStreamEvent
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.strict import Number
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.output.png import Format

router = APIRouter(prefix="/v1/images/generations", tags=["images"], route_class=JsonRoute)


class ImageBody(DiffusionFields):
    """The body of POST /v1/images/generations."""

    neutral: ClassVar = IMAGE

    model: str | None = None
    prompt: StrictStr | None = None
    class_label: StrictInt | None = None
    n: StrictInt | None = Field(default=None, ge=1)
    size: StrictStr | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Format | None = None
    partial_images: StrictInt | None = Field(default=None, ge=0, le=3)
    latency_budget_ms: Annotated[Number, Field(gt=0, le=3_600_000)] | None = None
    user: str | None = None

    def check(self, state: State) -> None:
        """Refuse options that the model does not support.

        Raises:
            ApiError: 400 naming the field.
        """
        if self.size not in (None, "auto", native := native_size(state)):
            raise ApiError(400, f"size must be {native}, the model's own", param="size")
        if self.partial_images and not self.stream:
            raise ApiError(400, "partial_images needs stream: true", param="partial_images")
        if self.trajectory == "delta":
            message = "trajectory: for images, POST /v1/diffusion/trajectories"
            raise ApiError(400, message, param="trajectory")


@router.post(
    "",
    summary="Generate images",
    response_model=None,
    responses=says(Images, *GENERATING, stream=ImageStreamEvent),
)
async def draw(body: ImageBody, request: Request) -> Response:
    """Generates images of a class."""
    state = image_model(State.of(request), body.model)
    body.check(state)
    job = ImageJob(
        state,
        body,
        "img-",
        labels=[label_of(state.checkpoint.info, body.class_label, body.prompt)],
        count=body.n or 1,
        form=body.output_format or "png",
        budget=body.latency_budget_ms,
        partial=body.partial_images or 0,
    )
    return await job.respond(request, bool(body.stream))
