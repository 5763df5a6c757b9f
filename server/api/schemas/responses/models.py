"""Responses of model and tokenizer routes."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from server.api.schemas.responses.common import ImageGrid, MaskToken
from server.http.json_response import Answer


class RequestLimits(Answer):
    """Limits of one request."""

    steps: int
    choices: int


class RequestParameter(Answer):
    """A sampling parameter that a request may set."""

    name: str
    label: str
    description: str
    kind: Literal["integer", "number", "flag", "choice", "schedule"]
    samplers: Annotated[list[str], Field(description="samplers that use it")]
    choices: Annotated[
        list[str], Field(description="allowed words; of a schedule, the word for its default")
    ]
    minimum: float | int | None
    maximum: float | int | None
    default: float | int | bool | str | None


class DiffusionModel(Answer):
    """Properties of a model and the defaults of its requests."""

    family: str
    parameters: int
    dtype: str
    adapter: Annotated[
        str | None, Field(description="name of the LoRA adapter in the weights; null without one")
    ]
    samplers: list[str]
    sampler: Annotated[str, Field(description="the default")]
    fields: Annotated[
        dict[str, list[str]],
        Field(description="samplers that use a parameter; parameters not listed are used by all"),
    ]
    request_parameters: Annotated[
        list[RequestParameter], Field(description="sampling parameters of a request, for forms")
    ]
    steps: int
    mixing_ratio: float
    temperature: float
    top_p: float
    guidance_scale: float
    max_tokens: Annotated[
        int | None, Field(description="default on an empty canvas; null for images")
    ]
    chat: Annotated[bool, Field(description="whether the model has a chat template")]
    chat_system: Annotated[
        bool | None,
        Field(description="whether the chat template shows system messages; null where unknown"),
    ]
    limits: RequestLimits
    vocab_size: int
    mask_token: Annotated[
        MaskToken | None, Field(description="null for a model of uniform noise alone")
    ]
    max_canvas: Annotated[int, Field(description="positions, prompt included")]
    block_length: Annotated[int | None, Field(description="null means the whole canvas")]
    classes: Annotated[int, Field(description="number of class labels; 0 for text")]
    class_names: Annotated[
        list[str], Field(description="names by label; empty if classes have none")
    ]
    image: Annotated[ImageGrid | None, Field(description="its images; null for text")]


class Model(Answer):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    diffusion: DiffusionModel


class Models(Answer):
    """List of models."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Answer):
    """Token ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: NotRequired[Annotated[list[str], Field(description="with return_token_strs")]]


class Detokenized(Answer):
    """Text of token ids."""

    prompt: str


class TokenizerInfo(Answer):
    """Special tokens and the chat template, for clients that render conversations themselves."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    mask_token: str | None
    model_max_length: int
    chat_template: str | None
