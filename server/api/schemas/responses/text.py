"""Responses of completions and chat completions, complete and streamed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.api.schemas.responses.common import (
    Answer,
    FinishReason,
    Generated,
    StepRecord,
    Usage,
    UsageSoFar,
)


class TextLogProbs(Answer):
    """Log-probabilities of a completion's tokens, in nats, one entry a token."""

    tokens: list[str] = Field(description="incomplete UTF-8 is written as bytes:\\xe2\\x80")
    token_logprobs: list[float | None] = Field(
        description="null for a token of the prompt without an estimate"
    )
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    steps: list[int | None] = Field(
        description="step at which the token was written; null for the prompt"
    )
    prompt_samples: int = Field(
        default=0, description="Monte Carlo samples of the prompt's log-probabilities, with echo"
    )


class TopLogProb(Answer):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(
        description="UTF-8 bytes of the token; null for a special token"
    )


class TokenLogProb(TopLogProb):
    """A token of a chat message."""

    top_logprobs: list[TopLogProb]
    step: int | None = Field(description="step at which the token was written")


class ChatLogProbs(Answer):
    """Log-probabilities of a chat message's tokens."""

    content: list[TokenLogProb]
    refusal: None


class DiffusionMeta(Answer):
    """Progress of denoising, with diffusing: true."""

    step: int
    steps: int
    masked: int


class TextChoice(Answer):
    """A completion choice."""

    index: int
    text: str
    logprobs: TextLogProbs | None
    finish_reason: FinishReason


class TextPiece(TextChoice):
    """A completion choice of a chunk."""

    finish_reason: FinishReason | None  # type: ignore[assignment]


class AnsweredMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """A chat completion choice."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason


class Delta(Answer):
    """New content of a message."""

    role: Literal["assistant"] = Field(default="assistant", description="on the first chunk")
    content: str = ""


class ChatPiece(Answer):
    """A chat completion choice of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason | None


class Completion(Generated):
    """Completions of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class Chunk(Generated):
    """Fields of all chunks."""

    usage: UsageSoFar = Field(
        default=None,
        description="on the last chunk with include_usage, on all with continuous_usage_stats",
    )  # type: ignore[assignment]
    diffusion: StepRecord = Field(default=None, description="with trajectory: delta")  # type: ignore[assignment]
    diffusion_meta: DiffusionMeta = Field(default=None, description="with diffusing: true")  # type: ignore[assignment]


class CompletionChunk(Chunk):
    """A chunk of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[TextPiece]


class ChatCompletion(Generated):
    """Replies to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(Chunk):
    """A chunk of a streamed chat completion."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
