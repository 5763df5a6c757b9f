"""What the route that draws answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.api.schemas.responses.common import Answer, DiffusionUsage


class Picture(Answer):
    """An image."""

    b64_json: str = Field(description="the file, in base64")


class ImageTokens(Answer):
    """There is no text in it, nor images."""

    text_tokens: int
    image_tokens: int


class ImageUsage(Answer):
    """Tokens of the images, and what they took."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: ImageTokens
    diffusion: DiffusionUsage


class Images(Answer):
    """Images of a class."""

    created: int
    data: list[Picture]
    size: str = Field(description="width x height in pixels")
    background: Literal["opaque"]
    output_format: Literal["png", "webp"]
    usage: ImageUsage
    model: str
    seed: int


class ImageStreamEvent(Answer):
    """An image, on its way (partial_image) or finished (completed)."""

    type: Literal["image_generation.partial_image", "image_generation.completed"]
    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"]
    background: Literal["opaque"]
    output_format: Literal["png", "webp"]
    index: int = Field(description="of the image, where there are several")
    seed: int
    partial_image_index: int = Field(default=0, description="of a partial image")
    usage: ImageUsage = Field(default=None, description="of a finished one")  # type: ignore[assignment]
