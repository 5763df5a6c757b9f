"""What is served, and its tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.api.schemas.responses.common import Answer, ImageGrid, MaskToken


class RequestLimits(Answer):
    """What one request may ask for."""

    steps: int
    choices: int


class RequestParameter(Answer):
    """A sampling parameter that a request may set."""

    name: str
    label: str
    description: str
    kind: Literal["integer", "number", "flag", "choice", "schedule"]
    samplers: list[str] = Field(description="that read it")
    choices: list[str] = Field(description="allowed words; of a schedule, the word for its default")
    minimum: float | int | None
    maximum: float | int | None
    default: float | int | bool | str | None


class DiffusionModel(Answer):
    """What a model is, and what its requests get where they do not choose."""

    family: str
    parameters: int
    dtype: str
    samplers: list[str]
    sampler: str = Field(description="the one that requests get")
    fields: dict[str, list[str]] = Field(
        description="which samplers read a field; those that are not here are read by all"
    )
    request_parameters: list[RequestParameter] = Field(
        description="sampling parameters of a request, for forms"
    )
    steps: int
    mixing_ratio: float
    temperature: float
    top_p: float
    guidance_scale: float
    max_tokens: int | None = Field(description="on an empty canvas; null for images")
    chat: bool = Field(description="it has a chat template")
    chat_system: bool | None = Field(
        description="whether the chat template shows system messages; null where unknown"
    )
    limits: RequestLimits
    vocab_size: int
    mask_token: MaskToken
    max_canvas: int = Field(description="positions, prompt included")
    block_length: int | None = Field(description="null is the whole canvas")
    classes: int = Field(description="labels that it takes, from 0; 0 for text")
    class_names: list[str] = Field(description="in the order of the labels, where they have any")
    image: ImageGrid | None = Field(description="what it makes; null for text")


class Model(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    diffusion: DiffusionModel


class Models(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Answer):
    """Ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] = Field(default=[], description="with return_token_strs")


class Detokenized(Answer):
    """Text of ids."""

    prompt: str


class TokenizerInfo(Answer):
    """What a client needs that renders conversations itself."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    mask_token: str | None
    model_max_length: int
    chat_template: str | None
