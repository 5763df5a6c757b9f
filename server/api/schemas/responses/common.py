"""What answers are made of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Answer(BaseModel):
    """An object that has the fields it says and no others."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """What was wrong."""

    message: str = Field(description="for people; of a limit, what was asked and what it is")
    type: Literal[
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    ]
    param: str | None = Field(description="the field that is to blame")
    code: str | None = Field(description="for programs: limit_exceeded, queue_full, …")


class Error(Answer):
    """Any answer but a good one."""

    error: Problem


class DiffusionUsage(Answer):
    """What denoising took; of several choices the counts add up, steps and times are the most."""

    steps_asked: int = Field(default=0, description="with latency_budget_ms only")
    steps: int
    forwards: int = Field(description="evaluations of the network")
    positions: int = Field(description="that were to fill")
    tokens_per_forward: float
    unmasked: int
    refined: int
    remasked: int
    queue_ms: float
    denoise_ms: float


class Usage(Answer):
    """Tokens, and what they took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    diffusion: DiffusionUsage


class UsageSoFar(Usage):
    """The same of a stream: before its end the tokens so far, and nothing of what they took."""

    diffusion: DiffusionUsage = Field(default=None, description="once all has ended")  # type: ignore[assignment]


class Change(Answer):
    """A position that a step changed."""

    pos: int = Field(description="on the canvas, prompt included")
    op: Literal["unmask", "refine", "remask"]
    id: int
    text: str
    was: int | None = Field(description="the id before; null for a mask")
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
    masked: int = Field(description="masks left on the canvas")
    changes: list[Change]
    final: bool = Field(default=False, description="the call that removes the remaining noise")
    snapshot: Snapshot = Field(default=None, description="on the first record, and every 16")  # type: ignore[assignment]


class MaskToken(Answer):
    """The token that stands for nothing yet."""

    id: int
    text: str


class ImageGrid(Answer):
    """The images of a model."""

    width: int = Field(description="in pixels")
    height: int
    channels: int
    tokens: Literal["grey levels", "vq", "bytes"]
    levels: int = Field(description="ids below this stand in images")


class Generated(Answer):
    """What all generated objects have."""

    id: str
    created: int = Field(description="seconds since 1970")
    model: str
    seed: int = Field(description="the request's, or the one that was drawn for it")
