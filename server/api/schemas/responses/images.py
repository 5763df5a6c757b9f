"""Responses of image generation."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from server.api.schemas.responses.common import DiffusionUsage
from server.http.json_response import Answer
from server.output.png import Format


class Picture(Answer):
    """A generated image."""

    b64_json: Annotated[str, Field(description="the image file in base64")]


class ImageTokens(Answer):
    """Input tokens by kind; both are 0."""

    text_tokens: int
    image_tokens: int


class ImageUsage(Answer):
    """Token counts of images and the work of denoising."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: ImageTokens
    diffusion: DiffusionUsage


class Images(Answer):
    """Generated images of a class."""

    created: int
    data: list[Picture]
    size: Annotated[str, Field(description="width x height in pixels")]
    background: Literal["opaque"]
    output_format: Format
    usage: ImageUsage
    model: str
    seed: int


class ImageStreamEvent(Answer):
    """An intermediate (partial_image) or finished (completed) image."""

    type: Literal["image_generation.partial_image", "image_generation.completed"]
    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"]
    background: Literal["opaque"]
    output_format: Format
    index: Annotated[int, Field(description="number of the image among the request's")]
    seed: int
    partial_image_index: NotRequired[
        Annotated[int, Field(default=0, description="number of a partial image")]
    ]
    usage: NotRequired[
        Annotated[ImageUsage, Field(default=None, description="with a finished image")]
    ]
