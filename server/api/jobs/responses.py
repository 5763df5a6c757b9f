"""The job of POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from server.api.context import State
from server.api.jobs.constraints import Constraint
from server.api.jobs.named import Event, NamedJob, Part, Reader, SaidFormat
from server.api.jobs.prompts import Prompt
from server.api.jobs.tools import ToolPlan
from server.api.schemas.requests import TextFields
from server.api.schemas.responses.openai_responses import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ContentPartEvent,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputItemEvent,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseEvent,
    ResponseObject,
    ResponseUsage,
    TextDeltaEvent,
    TextDoneEvent,
    ThoughtsDeltaEvent,
    ThoughtsDoneEvent,
)
from server.engine.events import Failed
from server.output.calls import CallPiece, Heard
from server.output.thoughts import Thoughts

PREFIXES: dict[type[Part], str] = {str: "msg_", Thoughts: "rs_", CallPiece: "fc_"}
"""Of the ids of items."""


class ResponseFormat(SaidFormat):
    """See ``SaidFormat``."""

    prefix: ClassVar = "resp_"


@dataclass(frozen=True)
class Echoed:
    """Fields of the body that the answer repeats."""

    format: Mapping[str, Any]
    instructions: str | None
    metadata: Mapping[str, str]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool


class ResponseJob(NamedJob):
    """Builds OpenAI's response object and the events of its stream."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        prompts: Sequence[Prompt],
        plan: ToolPlan,
        constraint: Constraint | None,
        echoed: Echoed,
    ) -> None:
        """Check a body. ``constraint``: of its text.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, ResponseFormat(), prompts, plan, constraint)
        self._asked, self._user, self._echoed = body.max_tokens, body.user, echoed
        self._number = count()
        self._items = 0  # begun in the stream
        self._open: Part | None = None  # the last of them, as far as it has come

    def answer(self, reader: Reader, heard: Heard) -> ResponseObject:
        """See ``NamedJob``."""
        complete = reader.text.reason == "stop" or bool(heard.calls)
        parts = heard.parts or ("",)
        last = len(parts) - 1
        statuses: list[ItemStatus] = [_status(complete or i < last) for i in range(len(parts))]
        items = enumerate(zip(parts, statuses, strict=True))
        answer = self._object([self._item(i, part, status) for i, (part, status) in items])
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

    def more(self, part: Part) -> Iterator[Event]:
        """See ``NamedJob``."""
        if isinstance(part, str):
            if not isinstance(self._open, str):
                yield from self._begun("")
            assert isinstance(self._open, str)
            self._open += part
            yield self._text_delta(part)
            return
        if isinstance(part, Thoughts):
            if not isinstance(self._open, Thoughts):
                yield from self._begun(Thoughts(""))
            assert isinstance(self._open, Thoughts)
            self._open = Thoughts(self._open.text + part.text)
            thought: ThoughtsDeltaEvent = {
                "type": "response.reasoning_text.delta",
                "sequence_number": next(self._number),
                "item_id": self._id(self._items - 1, part),
                "output_index": self._items - 1,
                "content_index": 0,
                "delta": part.text,
            }
            yield thought
            return
        if part.id:
            yield from self._begun(CallPiece(part.index, "", part.id, part.name))
        assert isinstance(self._open, CallPiece)
        self._open = Heard((self._open, part)).whole().calls[0]
        delta: ArgumentsDeltaEvent = {
            "type": "response.function_call_arguments.delta",
            "sequence_number": next(self._number),
            "item_id": self._id(self._items - 1, part),
            "output_index": self._items - 1,
            "delta": part.arguments,
        }
        yield delta

    def end(self, reader: Reader, heard: Heard) -> Iterator[Event]:
        """See ``NamedJob``."""
        if not self._items:
            yield from self._begun("")
        complete = reader.text.reason == "stop" or bool(heard.calls)
        yield from self._closed(_status(complete))
        ended: ResponseEvent = {
            "type": "response.completed" if complete else "response.incomplete",
            "sequence_number": next(self._number),
            "response": self.answer(reader, heard),
        }
        yield ended

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

    def _begun(self, part: Part) -> Iterator[Event]:
        """Events that end the last item and begin another."""
        if self._open is not None:
            yield from self._closed("completed")
        self._open, index = part, self._items
        self._items += 1
        item = self._item(index, part, "in_progress")
        if item["type"] != "function_call":
            item["content"] = []
        added: OutputItemEvent = {
            "type": "response.output_item.added",
            "sequence_number": next(self._number),
            "output_index": index,
            "item": item,
        }
        yield added
        if not isinstance(part, CallPiece):
            yield self._part("response.content_part.added", part)

    def _closed(self, status: ItemStatus) -> Iterator[Event]:
        """Events that end the last item."""
        part, index = self._open, self._items - 1
        assert part is not None
        if isinstance(part, str):
            done: TextDoneEvent = {
                "type": "response.output_text.done",
                "sequence_number": next(self._number),
                "item_id": self._id(index, part),
                "output_index": index,
                "content_index": 0,
                "text": part,
                "logprobs": [],
            }
            yield done
            yield self._part("response.content_part.done", part)
        elif isinstance(part, Thoughts):
            thought: ThoughtsDoneEvent = {
                "type": "response.reasoning_text.done",
                "sequence_number": next(self._number),
                "item_id": self._id(index, part),
                "output_index": index,
                "content_index": 0,
                "text": part.text,
            }
            yield thought
            yield self._part("response.content_part.done", part)
        else:
            made: ArgumentsDoneEvent = {
                "type": "response.function_call_arguments.done",
                "sequence_number": next(self._number),
                "item_id": self._id(index, part),
                "output_index": index,
                "name": part.name,
                "arguments": part.arguments,
            }
            yield made
        item: OutputItemEvent = {
            "type": "response.output_item.done",
            "sequence_number": next(self._number),
            "output_index": index,
            "item": self._item(index, part, status),
        }
        yield item

    def _text_delta(self, text: str) -> TextDeltaEvent:
        return {
            "type": "response.output_text.delta",
            "sequence_number": next(self._number),
            "item_id": self._id(self._items - 1, text),
            "output_index": self._items - 1,
            "content_index": 0,
            "delta": text,
            "logprobs": [],
        }

    def _part(self, name: Any, part: str | Thoughts) -> ContentPartEvent:
        return {
            "type": name,
            "sequence_number": next(self._number),
            "item_id": self._id(self._items - 1, part),
            "output_index": self._items - 1,
            "content_index": 0,
            "part": _text(part) if isinstance(part, str) else _reasoning(part),
        }

    def _id(self, index: int, part: Part) -> str:
        """The id of an item of the output."""
        kind = PREFIXES[type(part)]
        return f"{self.head.id.replace(ResponseFormat.prefix, kind, 1)}{index:02x}"

    def _item(self, index: int, part: Part, status: ItemStatus) -> OutputItem:
        if isinstance(part, str):
            message: OutputMessage = {
                "id": self._id(index, part),
                "type": "message",
                "role": "assistant",
                "status": status,
                "content": [_text(part)],
            }
            return message
        if isinstance(part, Thoughts):
            thoughts: OutputReasoning = {
                "id": self._id(index, part),
                "type": "reasoning",
                "summary": [],
                "content": [_reasoning(part)],
                "encrypted_content": None,
                "status": status,
            }
            return thoughts
        call: OutputCall = {
            "id": self._id(index, part),
            "type": "function_call",
            "call_id": part.id,
            "name": part.name,
            "arguments": part.arguments,
            "status": status,
        }
        return call

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

    def _object(self, output: list[OutputItem]) -> ResponseObject:
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
            "instructions": self._echoed.instructions,
            "max_output_tokens": self._asked,
            "max_tool_calls": None,
            "metadata": {**self._echoed.metadata},
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": self._echoed.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": None,
            "safety_identifier": None,
            "seed": self.head.seed,
            "service_tier": "default",
            "store": False,
            "temperature": self.params.temperature,
            "text": {"format": {**self._echoed.format}},
            "tool_choice": self._echoed.tool_choice,
            "tools": [{**tool} for tool in self._echoed.tools],
            "top_logprobs": 0,
            "top_p": self.params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": self._user,
        }


def _text(text: str) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(part: Thoughts) -> ReasoningText:
    return {"type": "reasoning_text", "text": part.text}


def _status(complete: bool) -> ItemStatus:
    return "completed" if complete else "incomplete"
