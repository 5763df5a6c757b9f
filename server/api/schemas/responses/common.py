"""Objects that several responses contain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

FinishReason = Literal["stop", "length"]


class Answer(BaseModel):
    """Base of response objects; no further fields are allowed."""

    model_config = ConfigDict(extra="forbid")


@with_config(extra="forbid")
class AnswerDict(TypedDict):
    """Base of response objects that routes build as dicts; no further fields are allowed."""


class Problem(Answer):
    """Description of an error."""

    message: str = Field(
        description="human-readable; for limits it names the requested value and the limit"
    )
    type: Literal[
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    ]
    param: str | None = Field(description="the field that caused the error")
    code: str | None = Field(description="machine-readable: limit_exceeded, queue_full, …")


class Error(Answer):
    """An error response."""

    error: Problem


class DiffusionUsage(Answer):
    """Work of denoising. Of several choices, counts are sums; steps and times are maxima."""

    steps_asked: int = Field(default=0, description="requested steps; with latency_budget_ms only")
    steps: int
    forwards: int = Field(description="network evaluations")
    positions: int = Field(description="generated positions")
    tokens_per_forward: float
    unmasked: int
    refined: int
    remasked: int
    queue_ms: float
    denoise_ms: float


class Usage(Answer):
    """Token counts and the work of denoising."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    diffusion: DiffusionUsage


class UsageSoFar(Usage):
    """Usage of a stream; before its end, token counts so far."""

    diffusion: DiffusionUsage = Field(default=None, description="at the end of all choices")  # type: ignore[assignment]


class Change(Answer):
    """A position that a step changed."""

    pos: int = Field(description="on the canvas, prompt included")
    op: Literal["unmask", "refine", "remask"]
    id: int
    text: str
    was: int | None = Field(description="previous id; null for a mask")
    conf: float = Field(description="the model's probability of the new token; 0 for noise")


class Snapshot(Answer):
    """The whole canvas."""

    ids: list[int]
    texts: list[str]


class StepRecord(Answer):
    """One step of a trajectory."""

    v: Literal[1]
    step: int
    steps: int
    block: int
    masked: int = Field(description="masked positions left on the canvas")
    changes: list[Change]
    final: bool = Field(
        default=False, description="the last step, which removes the remaining noise"
    )
    snapshot: Snapshot = Field(default=None, description="on the first record and every 16th")  # type: ignore[assignment]


class MaskToken(AnswerDict):
    """The mask token."""

    id: int
    text: str


class ImageGrid(AnswerDict):
    """Size and encoding of a model's images."""

    width: Annotated[int, Field(description="in pixels")]
    height: int
    channels: int
    tokens: Literal["grey levels", "vq", "bytes"]
    levels: Annotated[int, Field(description="ids below this occur in images")]


class Generated(Answer):
    """Fields of all generated objects."""

    id: str
    created: int = Field(description="seconds since 1970")
    model: str
    seed: int = Field(description="the request's seed, or a random one")
