"""Image generation jobs: checked requests, their answer and their stream."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import orjson
import torch

from models.images.layout import ImageShape
from models.interface import ModelInfo
from sampler.params import InvalidParam
from server.api.context import State
from server.api.jobs.base import Choice, ChoiceReader, Job, child_seeds
from server.api.jobs.limits import exceeded
from server.api.schemas.requests import DiffusionFields, refused
from server.api.schemas.responses.images import Images, ImageStreamEvent, ImageUsage
from server.api.schemas.responses.trajectories import FinishedImage
from server.engine.events import Done, Failed, GenerationRequest, Step, Tally
from server.engine.preparation import prepared
from server.engine.request_params import ModelKind, class_named
from server.engine.stream import Subscription, merged
from server.http.errors import ApiError, error_body
from server.output.png import Format, encoded
from server.output.text import TrajectoryEncoder

LEAST_ID = 2  # bytes of an id and a comma


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

    def choice(self) -> FinishedImage:
        """The complete choice, after the end."""
        return {
            "index": self._index,
            "b64_json": self.encoded(self.canvas),
            "finish_reason": "stop",
            "ids": list(self.canvas),
        }

    def least_bytes(self) -> int:
        """See ``ChoiceReader``."""
        return LEAST_ID * len(self.canvas)

    def encoded(self, canvas: Sequence[int]) -> str:
        """A canvas as an image file in base64; masked positions are grey."""
        (pixels,) = self._state.checkpoint.pixels(torch.tensor([canvas]))
        return base64.b64encode(encoded(pixels, self._form)).decode()


class ImageJob(Job[ImageReader]):
    """A job that generates images: one request for each choice of a body."""

    def __init__(
        self,
        state: State,
        body: DiffusionFields,
        prefix: str,
        *,
        labels: Sequence[int],
        count: int,
        form: Format = "png",
        budget: float | None = None,
        partial: int = 0,
        wants_steps: bool = False,
    ) -> None:
        """Check a body.

        ``count`` is the number of images of each class in ``labels``, ``partial`` that of
        intermediate images of each, for a stream.

        Raises:
            ApiError: naming the field.
        """
        kind = ModelKind.of(state.checkpoint.info)
        params = replace(body.sampling_params(state.defaults, kind), class_label=labels[0])
        super().__init__(state, prefix, params, budget)
        self.form: Format = form
        self.partial = partial
        self.check_choices(count, len(labels), "class_labels")
        try:
            self.requests = [
                GenerationRequest.continuing(
                    [],
                    shape_of(state).length,
                    params.changed(seed=seed, class_label=labels[i // count]),
                    wants_steps or partial > 0,
                    budget=self.budget_seconds,
                )
                for i, seed in enumerate(child_seeds(params.seed, count * len(labels)))
            ]
            self.requests = [prepared(request, state.engine.caching) for request in self.requests]
        except InvalidParam as error:
            raise refused(error) from None
        self.check_work()

    async def readers(self, subscriptions: Sequence[Subscription]) -> list[ImageReader]:
        """See ``Job``."""
        return [
            ImageReader(self.state, i, subscription, self.form)
            for i, subscription in enumerate(subscriptions)
        ]

    async def choices(self, readers: Sequence[ChoiceReader[Choice]]) -> AsyncGenerator[Choice]:
        """See ``Job``. Decoded in a thread, since a decoder of image tokens takes long; one by one,
        so that the thread is free for others in between and no image is decoded for a client that
        has left.
        """
        for reader in readers:
            yield await asyncio.to_thread(reader.choice)

    async def whole(self, readers: Sequence[ImageReader]) -> Images:
        """See ``Job``."""
        images = [image async for image in self.choices(readers)]
        return {
            "created": self.head.created,
            "data": [{"b64_json": image["b64_json"]} for image in images],
            "size": native_size(self.state),
            "background": "opaque",
            "output_format": self.form,
            "usage": self.usage(readers),
            "model": self.head.model,
            "seed": self.head.seed,
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
                    last = await self._event(i, reader.canvas, reader)
                    last["usage"] = self.usage([reader])
                    yield _written(last)
                    continue
                while due[i] and event.step >= due[i][0]:
                    due[i].pop(0)
                    partial = await self._event(i, reader.trajectory.canvas, reader)
                    partial["type"] = "image_generation.partial_image"
                    partial["partial_image_index"] = self.partial - len(due[i]) - 1
                    yield _written(partial)

    async def _event(self, i: int, canvas: Sequence[int], reader: ImageReader) -> ImageStreamEvent:
        return {
            "type": "image_generation.completed",
            "b64_json": await asyncio.to_thread(reader.encoded, list(canvas)),
            "created_at": self.head.created,
            "quality": "auto",
            "size": native_size(self.state),
            "background": "opaque",
            "output_format": self.form,
            "index": i,
            "seed": self.requests[i].params.seed,
        }

    def usage(self, readers: Sequence[ImageReader]) -> ImageUsage:
        """See ``Job``."""
        tokens = sum(len(reader.canvas) for reader in readers)
        return {
            "input_tokens": 0,
            "output_tokens": tokens,
            "total_tokens": tokens,
            "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
            "diffusion": self.cost([reader.tally for reader in readers]),
        }


def _written(event: ImageStreamEvent) -> dict[str, str]:
    """A stream event as its fields."""
    return {"event": event["type"], "data": orjson.dumps(event).decode()}


def shape_of(state: State) -> ImageShape:
    """The image layout of a model that generates images."""
    shape = state.checkpoint.info.image
    assert shape is not None
    return shape


def native_size(state: State) -> str:
    """Width and height of the model's images, written as in OpenAI's API."""
    height, width = shape_of(state).size
    return f"{width}x{height}"


def label_of(
    info: ModelInfo, class_label: int | None, prompt: str | None, name: str = "class_label"
) -> int:
    """The class that a request selects, by its number in the field ``name`` or by a prompt with its
    name.

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
            raise exceeded(name, name, class_label, info.classes - 1)
        raise ApiError(400, f"{name} is {class_label}, below 0", param=name)
    if named not in (None, class_label):
        raise ApiError(400, "prompt and class_label name different classes", param="prompt")
    return class_label
