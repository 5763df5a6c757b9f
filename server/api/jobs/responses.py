"""The job of POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import ClassVar

from server.api.context import State
from server.api.jobs.named import Event, NamedJob, Reader, SaidFormat
from server.api.jobs.prompts import Prompt
from server.api.schemas.requests import TextFields
from server.api.schemas.responses.openai_responses import (
    ContentPartEvent,
    ItemStatus,
    OutputItemEvent,
    OutputMessage,
    OutputText,
    ResponseEvent,
    ResponseObject,
    ResponseUsage,
    TextDeltaEvent,
    TextDoneEvent,
)
from server.engine.events import Failed


class ResponseFormat(SaidFormat):
    """See ``SaidFormat``."""

    prefix: ClassVar = "resp_"


class ResponseJob(NamedJob):
    """Builds OpenAI's response object and the events of its stream."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        prompts: Sequence[Prompt],
        *,
        instructions: str | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        """Check a body. ``instructions`` and ``metadata`` are repeated in the answer.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, ResponseFormat(), prompts)
        self._asked, self._user = body.max_tokens, body.user
        self._instructions, self._metadata = instructions, dict(metadata or {})
        self._item = self.head.id.replace(ResponseFormat.prefix, "msg_", 1)
        self._number = count()
        self._begun = False

    def answer(self, reader: Reader) -> ResponseObject:
        """See ``NamedJob``."""
        complete = reader.text.reason == "stop"
        answer = self._object([self._message(reader.text.text, _status(reader))])
        answer["status"] = "completed" if complete else "incomplete"
        answer["completed_at"] = int(time.time()) if complete else None
        answer["incomplete_details"] = None if complete else {"reason": "max_output_tokens"}
        answer["usage"] = self._usage(reader)
        return answer

    def begin(self) -> Iterator[Event]:
        """See ``NamedJob``."""
        for name in ("response.created", "response.in_progress"):
            begun: ResponseEvent = {
                "type": name,
                "sequence_number": next(self._number),
                "response": self._object([]),
            }
            yield begun

    def more(self, text: str) -> Iterator[Event]:
        """See ``NamedJob``."""
        yield from self._opened()
        delta: TextDeltaEvent = {
            "type": "response.output_text.delta",
            "sequence_number": next(self._number),
            "item_id": self._item,
            "output_index": 0,
            "content_index": 0,
            "delta": text,
            "logprobs": [],
        }
        yield delta

    def end(self, reader: Reader) -> Iterator[Event]:
        """See ``NamedJob``."""
        yield from self._opened()
        text = reader.text.text
        done: TextDoneEvent = {
            "type": "response.output_text.done",
            "sequence_number": next(self._number),
            "item_id": self._item,
            "output_index": 0,
            "content_index": 0,
            "text": text,
            "logprobs": [],
        }
        part: ContentPartEvent = {
            "type": "response.content_part.done",
            "sequence_number": next(self._number),
            "item_id": self._item,
            "output_index": 0,
            "content_index": 0,
            "part": _part(text),
        }
        item: OutputItemEvent = {
            "type": "response.output_item.done",
            "sequence_number": next(self._number),
            "output_index": 0,
            "item": self._message(text, _status(reader)),
        }
        answer = self.answer(reader)
        complete = answer["status"] == "completed"
        ended: ResponseEvent = {
            "type": "response.completed" if complete else "response.incomplete",
            "sequence_number": next(self._number),
            "response": answer,
        }
        yield from (done, part, item, ended)

    def failure(self, failed: Failed) -> ResponseEvent:
        """See ``NamedJob``."""
        answer = self._object([])
        answer["status"] = "failed"
        answer["error"] = {
            "code": "server_error",
            "message": failed.message,
            "type": failed.code,
        }
        return {
            "type": "response.failed",
            "sequence_number": next(self._number),
            "response": answer,
        }

    def _opened(self) -> Iterator[Event]:
        """Events that open the message, once."""
        if self._begun:
            return
        self._begun = True
        begun = self._message("", "in_progress")
        begun["content"] = []
        item: OutputItemEvent = {
            "type": "response.output_item.added",
            "sequence_number": next(self._number),
            "output_index": 0,
            "item": begun,
        }
        part: ContentPartEvent = {
            "type": "response.content_part.added",
            "sequence_number": next(self._number),
            "item_id": self._item,
            "output_index": 0,
            "content_index": 0,
            "part": _part(""),
        }
        yield from (item, part)

    def _message(self, text: str, status: ItemStatus) -> OutputMessage:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _usage(self, reader: Reader) -> ResponseUsage:
        usage = self.usage([reader])
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
            "diffusion": usage["diffusion"],
        }

    def _object(self, output: list[OutputMessage]) -> ResponseObject:
        """The response before its end."""
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "background": False,
            "instructions": self._instructions,
            "max_output_tokens": self._asked,
            "max_tool_calls": None,
            "metadata": self._metadata,
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": None,
            "safety_identifier": None,
            "seed": self.head.seed,
            "service_tier": "default",
            "store": False,
            "temperature": self.params.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": self.params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": self._user,
        }


def _part(text: str) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(reader: Reader) -> ItemStatus:
    return "completed" if reader.text.reason == "stop" else "incomplete"
