"""POST /v1/images/generations: images of a class, at once or with partial ones on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt, StrictStr
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from server.errors import ApiError, error_body
from server.events import Failed, Step
from server.images import Format
from server.routes.answers import GENERATING, Images, ImageStreamEvent, says
from server.routes.body import JsonRoute
from server.routes.drawing import Drawing, ImageReader, label_of, shape_of
from server.routes.models import image_model
from server.routes.schema import DiffusionFields, Number
from server.routes.waiting import failure, unless_gone
from server.state import State
from server.subscription import Subscription, merged
from server.wire import Json

router = APIRouter(prefix="/v1/images/generations", tags=["images"], route_class=JsonRoute)

PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


class ImageBody(DiffusionFields):
    """The body of POST /v1/images/generations."""

    neutral: ClassVar = {
        "quality": ("auto",),
        "background": ("auto", "opaque"),
        "moderation": ("auto", "low"),
        "output_compression": (100,),
        "diffusing": (False,),
    }

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
        """Refuse what this model cannot do.

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


def native_size(state: State) -> str:
    """Width and height of the model's images, as OpenAI writes them."""
    height, width = shape_of(state).size
    return f"{width}x{height}"


@router.post(
    "",
    summary="Draw images",
    response_model=None,
    responses=says(Images, *GENERATING, stream=ImageStreamEvent),
)
async def draw(body: ImageBody, request: Request) -> Response:
    """Draw images of a class, by denoising."""
    state = image_model(State.of(request), body.model)
    body.check(state)
    drawing = Drawing(
        state,
        body,
        "img",
        label=label_of(state.checkpoint.info, body.class_label, body.prompt),
        count=body.n or 1,
        form=body.output_format or "png",
        budget=body.latency_budget_ms,
        wants_steps=bool(body.partial_images),
    )
    subscriptions = drawing.submit()
    readers = await drawing.readers(subscriptions)

    def cancel() -> None:
        for subscription in subscriptions:
            subscription.cancel()

    if body.stream:
        return EventSourceResponse(
            _stream(drawing, readers, subscriptions, body.partial_images or 0),
            ping=state.settings.ping_seconds,
            headers={"X-Accel-Buffering": "no"},
            shutdown_grace_period=state.settings.shutdown_seconds,
            background=BackgroundTask(cancel),  # a stream that never began
        )
    try:
        return Json(await unless_gone(request, _answer(drawing, readers, subscriptions)))
    finally:
        cancel()


def _described(drawing: Drawing) -> dict[str, Any]:
    """What an answer, or the last event for an image, says of the images."""
    size = native_size(drawing.state)
    return {"size": size, "background": "opaque", "output_format": drawing.form}


async def _answer(
    drawing: Drawing, readers: Sequence[ImageReader], subscriptions: Sequence[Subscription]
) -> dict[str, Any]:
    async with aclosing(merged(subscriptions)) as events:
        async for i, event in events:
            if isinstance(event, Failed):
                raise failure(event)
            if not isinstance(event, Step):
                readers[i].end(event)
    return {
        "created": drawing.created,
        "data": [{"b64_json": reader.choice()["b64_json"]} for reader in readers],
        **_described(drawing),
        "usage": drawing.usage(readers),
        "model": drawing.model,
        "seed": drawing.params.seed,
    }


async def _stream(
    drawing: Drawing,
    readers: Sequence[ImageReader],
    subscriptions: Sequence[Subscription],
    partial: int,
) -> AsyncIterator[dict[str, str]]:
    """Named events as OpenAI has them: so many partial images for each, spread evenly over its
    steps, and the finished one.
    """
    steps = drawing.params.steps
    due = [[(i + 1) * steps // (partial + 1) for i in range(partial)] for _ in readers]
    try:
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                reader = readers[i]
                if isinstance(event, Failed):
                    data = error_body(500, event.message, None, event.code)
                    yield {"event": "error", "data": orjson.dumps(data).decode()}
                    return
                if isinstance(event, Step):
                    reader.follow(event)
                    while due[i] and event.step >= due[i][0]:
                        due[i].pop(0)
                        image = {"b64_json": reader.drawn(reader.trajectory.canvas)}
                        number = {"partial_image_index": partial - len(due[i]) - 1}
                        yield _event(PARTIAL, drawing, i, {**image, **number})
                else:
                    reader.end(event)
                    image = {"b64_json": reader.drawn(reader.canvas)}
                    usage = {"usage": drawing.usage([reader])}
                    yield _event(COMPLETED, drawing, i, {**image, **usage})
    finally:
        for subscription in subscriptions:
            subscription.cancel()


def _event(kind: str, drawing: Drawing, index: int, more: dict[str, Any]) -> dict[str, str]:
    data = {
        "type": kind,
        "created_at": drawing.created,
        "quality": "auto",
        **_described(drawing),
        "index": index,
        "seed": drawing.requests[index].params.seed,
        **more,
    }
    return {"event": kind, "data": orjson.dumps(data).decode()}
