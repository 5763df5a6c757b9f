"""The job of POST /v1/messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from server.api.context import State
from server.api.jobs.named import Event, NamedJob, Reader, SaidFormat
from server.api.jobs.prompts import Prompt
from server.api.schemas.requests import TextFields
from server.api.schemas.responses.anthropic_messages import (
    AnthropicMessage,
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
)
from server.engine.events import Failed
from server.http.anthropic import AnthropicError, anthropic_error
from server.output.text import stop_of


class MessageFormat(SaidFormat):
    """See ``SaidFormat``."""

    prefix: ClassVar = "msg_"


class MessageJob(NamedJob):
    """Builds Anthropic's message and the events of its stream."""

    def __init__(
        self, state: State, body: TextFields, prompts: Sequence[Prompt], request_id: str
    ) -> None:
        """Check a body. Errors of the stream have ``request_id``.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, MessageFormat(), prompts)
        self._request_id = request_id
        self._begun = False

    def answer(self, reader: Reader) -> AnthropicMessage:
        """See ``NamedJob``."""
        return {
            **self._head(),
            "content": [_block(reader.text.text)],
            **self._end(reader),
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

    def more(self, text: str) -> Iterator[Event]:
        """See ``NamedJob``."""
        yield from self._opened()
        delta: BlockDeltaEvent = {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": text},
        }
        yield delta

    def end(self, reader: Reader) -> Iterator[Event]:
        """See ``NamedJob``."""
        yield from self._opened()
        closed: BlockStopEvent = {"type": "content_block_stop", "index": 0}
        last: MessageDeltaEvent = {
            "type": "message_delta",
            "delta": self._end(reader),
            "usage": self._usage(reader),
        }
        stopped: MessageStopEvent = {"type": "message_stop"}
        yield from (closed, last, stopped)

    def failure(self, failed: Failed) -> AnthropicError:
        """See ``NamedJob``."""
        return anthropic_error(500, failed.message, None, failed.code, self._request_id)

    def _opened(self) -> Iterator[Event]:
        """The event that opens the text, once."""
        if not self._begun:
            self._begun = True
            start: BlockStartEvent = {
                "type": "content_block_start",
                "index": 0,
                "content_block": _block(""),
            }
            yield start

    def _head(self) -> MessageHead:
        return {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "seed": self.head.seed,
        }

    def _end(self, reader: Reader) -> MessageEnd:
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


def _block(text: str) -> TextBlock:
    return {"type": "text", "text": text, "citations": None}
