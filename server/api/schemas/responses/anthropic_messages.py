"""Answers of POST /v1/messages, whole and as events, with the fields of Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.responses.common import DiffusionUsage
from server.http.json_response import Answer

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(Answer):
    """A text of the answer."""

    type: Literal["text"]
    text: str
    citations: None


class ToolUseBlock(Answer):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ThinkingBlock(Answer):
    """Thoughts of the model."""

    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, Field(description="always empty")]


Block = TextBlock | ToolUseBlock | ThinkingBlock


class MessageUsage(Answer):
    """Token counts before the answer."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: Annotated[int, Field(description="always 0")]
    cache_read_input_tokens: Annotated[int, Field(description="always 0")]


class FinalUsage(MessageUsage):
    """Token counts and the work of denoising."""

    diffusion: DiffusionUsage


class MessageHead(Answer):
    """Fields of a message, begun or complete."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    seed: Annotated[int, Field(description="the request's seed, or a random one")]


class AnthropicMessage(MessageHead):
    """The next message of a conversation."""

    content: list[Block]
    stop_reason: StopReason
    stop_sequence: Annotated[
        str | None, Field(description="the one of stop_sequences that ended the text")
    ]
    usage: FinalUsage


class BegunMessage(MessageHead):
    """A message before its content."""

    content: Annotated[list[TextBlock], Field(max_length=0)]
    stop_reason: None
    stop_sequence: None
    usage: MessageUsage


class MessageStartEvent(Answer):
    """The stream begins."""

    type: Literal["message_start"]
    message: BegunMessage


class BlockStartEvent(Answer):
    """A block of the content begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: Block


class TextDelta(Answer):
    """More text of a block."""

    type: Literal["text_delta"]
    text: str


class ThinkingDelta(Answer):
    """More thoughts of a block."""

    type: Literal["thinking_delta"]
    thinking: str


class InputDelta(Answer):
    """More of the input of a call."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDeltaEvent(Answer):
    """More of a block."""

    type: Literal["content_block_delta"]
    index: int
    delta: TextDelta | InputDelta | ThinkingDelta


class BlockStopEvent(Answer):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: int


class MessageEnd(Answer):
    """Fields that are known at the end of a message."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDeltaEvent(Answer):
    """The message is complete."""

    type: Literal["message_delta"]
    delta: MessageEnd
    usage: FinalUsage


class MessageStopEvent(Answer):
    """The stream ends."""

    type: Literal["message_stop"]


MESSAGE_EVENTS = (
    MessageStartEvent,
    BlockStartEvent,
    BlockDeltaEvent,
    BlockStopEvent,
    MessageDeltaEvent,
    MessageStopEvent,
)
