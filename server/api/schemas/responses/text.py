"""What the routes that write answer, whole or in pieces."""

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

    tokens: list[str] = Field(description="part of a character is bytes:\\xe2\\x80")
    token_logprobs: list[float | None] = Field(description="null for a token that was given")
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    steps: list[int | None] = Field(description="at which it was written; null for a prompt's")
    prompt_samples: int = Field(default=0, description="behind the prompt's, with echo")


class TopLogProb(Answer):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="of the text; null for a special token")


class TokenLogProb(TopLogProb):
    """A token of a chat answer."""

    top_logprobs: list[TopLogProb]
    step: int | None = Field(description="at which it was written")


class ChatLogProbs(Answer):
    """Log-probabilities of a chat answer's tokens."""

    content: list[TokenLogProb]
    refusal: None


class DiffusionMeta(Answer):
    """Beside the canvas as text."""

    step: int
    steps: int
    masked: int


class TextChoice(Answer):
    """One text."""

    index: int
    text: str
    logprobs: TextLogProbs | None
    finish_reason: FinishReason


class TextPiece(TextChoice):
    """More of one text."""

    finish_reason: FinishReason | None  # type: ignore[assignment]


class AnsweredMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason


class Delta(Answer):
    """What is new."""

    role: Literal["assistant"] = Field(default="assistant", description="on the first piece")
    content: str = ""


class ChatPiece(Answer):
    """More of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason | None


class Completion(Generated):
    """Texts behind prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class Chunk(Generated):
    """What all pieces of streams have beside their choices."""

    usage: UsageSoFar = Field(
        default=None,
        description="on the last chunk with include_usage, on all with continuous_usage_stats",
    )  # type: ignore[assignment]
    diffusion: StepRecord = Field(default=None, description="with trajectory: delta")  # type: ignore[assignment]
    diffusion_meta: DiffusionMeta = Field(default=None, description="with diffusing: true")  # type: ignore[assignment]


class CompletionChunk(Chunk):
    """A piece of a stream of texts."""

    object: Literal["text_completion"]
    choices: list[TextPiece]


class ChatCompletion(Generated):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatCompletionChunk(Chunk):
    """A piece of a stream of answers."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
