"""Image generation jobs: checked requests, their answer and their stream."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
import torch

from models.images.layout import ImageShape
from models.interface import ModelInfo
from sampler.params import InvalidParam
from server.api.context import State
from server.api.jobs.base import Run, child_seeds
from server.api.jobs.limits import exceeded
from server.api.schemas.requests import DiffusionFields, refused
from server.engine.events import Done, Failed, GenerationRequest, Step, Tally
from server.engine.request_params import class_named
from server.engine.stream import Subscription, merged
from server.http.errors import ApiError, error_body
from server.output.png import Format, encoded
from server.output.text import TrajectoryEncoder

PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


class ImageReader:
    """Follows the canvas of one image."""

    trajectory: TrajectoryEncoder
    canvas: Sequence[int]
    tally: Tally

    def __init__(self, state: State, index: int, subscription: Subscription, form: Format) -> None:
        """Start before the first event."""
        self._state, self._index = state, index
        self._form: Format = form
        self._subscription = subscription
        self.trajectory = TrajectoryEncoder(state.checkpoint)

    def take(self, event: Step | Done) -> None:
        """Read any event."""
        if isinstance(event, Step):
            self.follow(event)
        else:
            self.end(event)

    def follow(self, step: Step) -> None:
        """Apply a step to the canvas."""
        self.trajectory.follow(step)

    def end(self, done: Done) -> None:
        """Set ``tally`` and ``canvas``."""
        self.tally, self.canvas = done.tally, done.tokens

    def choice(self) -> dict[str, Any]:
        """The complete choice, after the end."""
        return {
            "index": self._index,
            "b64_json": self.drawn(self.canvas),
            "finish_reason": "stop",
        }

    def drawn(self, canvas: Sequence[int]) -> str:
        """A canvas as an image file in base64; masked positions are grey."""
        (pixels,) = self._state.checkpoint.pixels(torch.tensor([canvas]))
        return base64.b64encode(encoded(pixels, self._form)).decode()


class Drawing(Run[ImageReader]):
    """A job that generates images: one request for each choice of a body."""

    def __init__(
        self,
        state: State,
        body: DiffusionFields,
        prefix: str,
        *,
        label: int,
        count: int,
        form: Format = "png",
        budget: float | None = None,
        partial: int = 0,
        wants_steps: bool = False,
    ) -> None:
        """Check a body.

        ``partial`` is the number of intermediate images of each, for a stream.

        Raises:
            ApiError: naming the field.
        """
        has_mask = state.checkpoint.info.mask_id is not None
        params = replace(body.sampling_params(state.defaults, has_mask), class_label=label)
        super().__init__(state, prefix, params, budget)
        self.form: Format = form
        self.partial = partial
        self.check_choices(count, 1)
        try:
            self.requests = [
                GenerationRequest.continuing(
                    [],
                    shape_of(state).length,
                    params.changed(seed=seed),
                    wants_steps or partial > 0,
                    budget=self.budget_seconds,
                )
                for seed in child_seeds(params.seed, count)
            ]
        except InvalidParam as error:
            raise refused(error) from None
        self.check_work()

    async def readers(self, subscriptions: Sequence[Subscription]) -> list[ImageReader]:
        """See ``Run``."""
        return [
            ImageReader(self.state, i, subscription, self.form)
            for i, subscription in enumerate(subscriptions)
        ]

    async def choices(self, readers: Sequence[ImageReader]) -> list[dict[str, Any]]:
        """See ``Run``. Drawn beside the event loop, where a decoder of image tokens takes its time;
        one by one, so that others have the thread in between and none is drawn for a client that
        has gone.
        """
        return [await asyncio.to_thread(reader.choice) for reader in readers]

    async def whole(self, readers: Sequence[ImageReader]) -> dict[str, Any]:
        """See ``Run``."""
        choices = await self.choices(readers)
        return {
            "created": self.created,
            "data": [{"b64_json": choice["b64_json"]} for choice in choices],
            **self._described(),
            "usage": self.usage(readers),
            "model": self.model,
            "seed": self.params.seed,
        }

    async def stream(
        self, readers: Sequence[ImageReader], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        """Named events as in OpenAI's API: partial images at even intervals of each image's steps,
        and the finished image.
        """
        parts = self.partial + 1
        due = [[i * self.params.steps // parts for i in range(1, parts)] for _ in readers]
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                if isinstance(event, Failed):
                    self.failed = event
                    data = error_body(500, event.message, None, event.code)
                    yield {"event": "error", "data": orjson.dumps(data).decode()}
                    return
                reader = readers[i]
                reader.take(event)
                if isinstance(event, Done):
                    yield await self._event(
                        COMPLETED, i, reader.canvas, reader, usage=self.usage([reader])
                    )
                    continue
                while due[i] and event.step >= due[i][0]:
                    due[i].pop(0)
                    number = self.partial - len(due[i]) - 1
                    canvas = reader.trajectory.canvas
                    yield await self._event(PARTIAL, i, canvas, reader, partial_image_index=number)

    def _described(self) -> dict[str, Any]:
        """Properties of the images that answers and events have."""
        size = native_size(self.state)
        return {"size": size, "background": "opaque", "output_format": self.form}

    async def _event(
        self, kind: str, i: int, canvas: Sequence[int], reader: ImageReader, **more: Any
    ) -> dict[str, str]:
        data = {
            "type": kind,
            "b64_json": await asyncio.to_thread(reader.drawn, list(canvas)),
            "created_at": self.created,
            "quality": "auto",
            **self._described(),
            "index": i,
            "seed": self.requests[i].params.seed,
            **more,
        }
        return {"event": kind, "data": orjson.dumps(data).decode()}

    def usage(self, readers: Sequence[ImageReader]) -> dict[str, Any]:
        """See ``Run``."""
        tokens = sum(len(reader.canvas) for reader in readers)
        return {
            "input_tokens": 0,
            "output_tokens": tokens,
            "total_tokens": tokens,
            "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
            "diffusion": self.cost([reader.tally for reader in readers]),
        }


def shape_of(state: State) -> ImageShape:
    """The image layout of a model that generates images."""
    shape = state.checkpoint.info.image
    assert shape is not None
    return shape


def native_size(state: State) -> str:
    """Width and height of the model's images, written as in OpenAI's API."""
    height, width = shape_of(state).size
    return f"{width}x{height}"


def label_of(info: ModelInfo, class_label: int | None, prompt: str | None) -> int:
    """The class that a request selects, by its number or by a prompt with its name.

    Raises:
        ApiError: 400 if none is selected, two differ, or it does not exist.
    """
    try:
        named = None if prompt is None else class_named(info, prompt)
    except InvalidParam as error:
        raise refused(error) from None
    if class_label is None and named is None:
        raise ApiError(400, "class_label is required by this model", param="class_label")
    if class_label is None:
        assert named is not None
        return named
    if not 0 <= class_label < info.classes:
        if class_label >= info.classes:
            raise exceeded("class_label", "class_label", class_label, info.classes - 1)
        raise ApiError(400, f"class_label is {class_label}, below 0", param="class_label")
    if named not in (None, class_label):
        raise ApiError(400, "prompt and class_label name different classes", param="prompt")
    return class_label
