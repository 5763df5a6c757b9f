"""The job of POST /v1/messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from server.api.context import State
from server.api.jobs.constraints import Constraint
from server.api.jobs.named import Event, NamedJob, Part, Reader, SaidFormat
from server.api.jobs.prompts import Prompt
from server.api.jobs.tools import ToolPlan
from server.api.schemas.requests import TextFields
from server.api.schemas.responses.anthropic_messages import (
    AnthropicMessage,
    Block,
    BlockDeltaEvent,
    BlockStartEvent,
    BlockStopEvent,
    FinalUsage,
    MessageDeltaEvent,
    MessageEnd,
    MessageHead,
    MessageStartEvent,
    MessageStopEvent,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from server.engine.events import Failed
from server.http.anthropic import AnthropicError, anthropic_error
from server.output.calls import CallPiece, Heard, object_of
from server.output.text import stop_of
from server.output.thoughts import Thoughts


class MessageFormat(SaidFormat):
    """See ``SaidFormat``."""

    prefix: ClassVar = "msg_"


class MessageJob(NamedJob):
    """Builds Anthropic's message and the events of its stream."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        prompts: Sequence[Prompt],
        plan: ToolPlan,
        constraint: Constraint | None,
        request_id: str,
    ) -> None:
        """Check a body. ``constraint``: of its text. Errors of the stream have ``request_id``.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, MessageFormat(), prompts, plan, constraint)
        self._request_id = request_id
        self._blocks = 0  # begun in the stream
        self._in: type[Part] | None = None  # what the last of them is

    def answer(self, reader: Reader, heard: Heard) -> AnthropicMessage:
        """See ``NamedJob``."""
        return {
            **self._head(),
            "content": [_block(part) for part in heard.parts or ("",)],
            **self._end(reader, heard),
            "usage": self._usage(reader),
        }

    def begin(self) -> Iterator[Event]:
        """See ``NamedJob``."""
        start: MessageStartEvent = {
            "type": "message_start",
            "message": {
                **self._head(),
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    "input_tokens": self.prompt_tokens,
                    "output_tokens": 0,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                },
            },
        }
        yield start

    def more(self, part: Part) -> Iterator[Event]:
        """See ``NamedJob``."""
        if isinstance(part, Thoughts):
            if self._in is not Thoughts:
                yield from self._begun(Thoughts(""))
            delta: BlockDeltaEvent = {
                "type": "content_block_delta",
                "index": self._blocks - 1,
                "delta": {"type": "thinking_delta", "thinking": part.text},
            }
        elif isinstance(part, str):
            if self._in is not str:
                yield from self._begun("")
            delta = {
                "type": "content_block_delta",
                "index": self._blocks - 1,
                "delta": {"type": "text_delta", "text": part},
            }
        else:
            if part.id:
                yield from self._begun(CallPiece(part.index, "{}", part.id, part.name))
            delta = {
                "type": "content_block_delta",
                "index": self._blocks - 1,
                "delta": {"type": "input_json_delta", "partial_json": part.arguments},
            }
        yield delta

    def end(self, reader: Reader, heard: Heard) -> Iterator[Event]:
        """See ``NamedJob``."""
        if not self._blocks:
            yield from self._begun("")
        closed: BlockStopEvent = {"type": "content_block_stop", "index": self._blocks - 1}
        last: MessageDeltaEvent = {
            "type": "message_delta",
            "delta": self._end(reader, heard),
            "usage": self._usage(reader),
        }
        stopped: MessageStopEvent = {"type": "message_stop"}
        yield from (closed, last, stopped)

    def failure(self, failed: Failed) -> AnthropicError:
        """See ``NamedJob``."""
        return anthropic_error(500, failed.message, None, failed.code, self._request_id)

    def _begun(self, part: Part) -> Iterator[Event]:
        """Events that end the last block and begin another."""
        if self._blocks:
            closed: BlockStopEvent = {"type": "content_block_stop", "index": self._blocks - 1}
            yield closed
        start: BlockStartEvent = {
            "type": "content_block_start",
            "index": self._blocks,
            "content_block": _block(part),
        }
        self._blocks += 1
        self._in = type(part)
        yield start

    def _head(self) -> MessageHead:
        return {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "seed": self.head.seed,
        }

    def _end(self, reader: Reader, heard: Heard) -> MessageEnd:
        if heard.calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        stop = stop_of(reader.text, self.view.stops)
        if stop is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        full = reader.text.reason == "length"
        return {"stop_reason": "max_tokens" if full else "end_turn", "stop_sequence": None}

    def _usage(self, reader: Reader) -> FinalUsage:
        usage = self.usage([reader])
        return {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "diffusion": usage["diffusion"],
        }


def _block(part: Part) -> Block:
    if isinstance(part, Thoughts):
        thinking: ThinkingBlock = {"type": "thinking", "thinking": part.text, "signature": ""}
        return thinking
    if isinstance(part, str):
        text: TextBlock = {"type": "text", "text": part, "citations": None}
        return text
    call: ToolUseBlock = {
        "type": "tool_use",
        "id": part.id,
        "name": part.name,
        "input": object_of(part.arguments) or {},
    }
    return call
