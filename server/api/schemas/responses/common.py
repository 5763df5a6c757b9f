"""Objects that several responses contain."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from server.http.json_response import Answer


class DiffusionUsage(Answer):
    """Work of denoising. Of several choices, counts are sums; steps and times are maxima."""

    steps_asked: NotRequired[
        Annotated[int, Field(default=0, description="requested steps; with latency_budget_ms only")]
    ]
    steps: int
    forwards: Annotated[int, Field(description="network evaluations")]
    positions: Annotated[int, Field(description="generated positions")]
    tokens_per_forward: float
    unmasked: int
    refined: int
    remasked: int
    queue_ms: float
    denoise_ms: float


class TokenCounts(Answer):
    """Token counts of a text."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Usage(TokenCounts):
    """Token counts and the work of denoising."""

    diffusion: DiffusionUsage


class UsageSoFar(TokenCounts):
    """Usage of a stream; before its end, token counts so far."""

    diffusion: NotRequired[
        Annotated[DiffusionUsage, Field(default=None, description="at the end of all choices")]
    ]


class MaskToken(Answer):
    """The mask token."""

    id: int
    text: str


class ImageGrid(Answer):
    """Size and encoding of a model's images."""

    width: Annotated[int, Field(description="in pixels")]
    height: int
    channels: int
    tokens: Literal["grey levels", "vq", "bytes"]
    levels: Annotated[int, Field(description="ids below this occur in images")]


class Generated(Answer):
    """Fields of all generated objects."""

    id: str
    created: Annotated[int, Field(description="seconds since 1970")]
    model: str
    seed: Annotated[int, Field(description="the request's seed, or a random one")]
