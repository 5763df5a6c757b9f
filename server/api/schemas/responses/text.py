"""Responses of completions and chat completions, complete and streamed."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field

from server.api.schemas.responses.common import Generated, Usage, UsageSoFar
from server.http.json_response import Answer
from server.output.records import FinishReason, StepRecord


class TextLogProbs(Answer):
    """Log-probabilities of a completion's tokens, in nats, one entry a token."""

    tokens: Annotated[
        list[str], Field(description="incomplete UTF-8 is written as bytes:\\xe2\\x80")
    ]
    token_logprobs: Annotated[
        list[float | None],
        Field(description="null for a token of the prompt without an estimate"),
    ]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    steps: Annotated[
        list[int | None],
        Field(description="step at which the token was written; null for the prompt"),
    ]
    entropies: Annotated[
        list[float | None],
        Field(description="of the model's distribution at that step; null for the prompt"),
    ]
    prompt_samples: NotRequired[
        Annotated[
            int,
            Field(
                default=0,
                description="Monte Carlo samples of the prompt's log-probabilities, with echo",
            ),
        ]
    ]


class TopLogProb(Answer):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: Annotated[
        list[int] | None,
        Field(description="UTF-8 bytes of the token; null for a special token"),
    ]


class TokenLogProb(TopLogProb):
    """A token of a chat message."""

    top_logprobs: list[TopLogProb]
    step: Annotated[int | None, Field(description="step at which the token was written")]
    entropy: Annotated[
        float | None, Field(description="of the model's distribution at that step, in nats")
    ]


class ChatLogProbs(Answer):
    """Log-probabilities of a chat message's tokens."""

    content: list[TokenLogProb]
    refusal: None


class DiffusionMeta(Answer):
    """Progress of denoising, with diffusing: true."""

    step: int
    steps: int
    masked: int


class NumberedText(Answer):
    """Fields of a completion choice, whole or of a chunk."""

    index: int
    text: str
    logprobs: TextLogProbs | None


class TextChoice(NumberedText):
    """A completion choice."""

    finish_reason: FinishReason


class TextPiece(NumberedText):
    """A completion choice of a chunk."""

    finish_reason: FinishReason | None


ChatReason = FinishReason | Literal["tool_calls"]


class CallText(Answer):
    """The function of a call, and its arguments as JSON."""

    name: str
    arguments: str


class AnsweredCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CallText


class AnsweredMessage(Answer):
    """The assistant's message."""

    role: Literal["assistant"]
    content: Annotated[str | None, Field(description="null if there are calls alone")]
    refusal: None
    reasoning_content: NotRequired[
        Annotated[
            str, Field(default="", description="what the model thought, where it tells that apart")
        ]
    ]
    tool_calls: NotRequired[list[AnsweredCall]]


class ChatChoice(Answer):
    """A chat completion choice."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogProbs | None
    finish_reason: ChatReason


class CallTextDelta(Answer):
    """More of a call."""

    name: NotRequired[Annotated[str, Field(default="", description="with the first piece")]]
    arguments: str


class CallDelta(Answer):
    """A call of a tool, or more of it."""

    index: int
    id: NotRequired[Annotated[str, Field(default="", description="with the first piece")]]
    type: NotRequired[Annotated[Literal["function"], Field(default="function")]]
    function: CallTextDelta


class Delta(Answer):
    """New content of a message."""

    role: NotRequired[
        Annotated[
            Literal["assistant"], Field(default="assistant", description="on the first chunk")
        ]
    ]
    content: NotRequired[Annotated[str, Field(default="")]]
    reasoning_content: NotRequired[
        Annotated[
            str,
            Field(default="", description="more of what the model thinks before its answer"),
        ]
    ]
    tool_calls: NotRequired[Annotated[list[CallDelta], Field(default=[])]]


class ChatPiece(Answer):
    """A chat completion choice of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogProbs | None
    finish_reason: ChatReason | None


class Completion(Generated):
    """Completions of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class Chunk(Generated):
    """Fields of all chunks."""

    usage: NotRequired[
        Annotated[
            UsageSoFar,
            Field(
                default=None,
                description="on the last chunk with include_usage, on all with "
                "continuous_usage_stats",
            ),
        ]
    ]
    diffusion: NotRequired[
        Annotated[StepRecord, Field(default=None, description="with trajectory: delta")]
    ]
    diffusion_meta: NotRequired[
        Annotated[DiffusionMeta, Field(default=None, description="with diffusing: true")]
    ]


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
