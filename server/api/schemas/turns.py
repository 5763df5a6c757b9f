"""Conversations and tools as /v1/messages takes them, and as those of a chat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    Tag,
    model_validator,
)

from server.api.schemas.conversation import add_call, add_result, named
from server.api.schemas.messages import MOST, Message, joining, part_fault
from server.api.schemas.neutral import LABEL, Neutral
from server.api.schemas.strict import StrictPart, refuse
from server.api.schemas.tools import MOST_TOOLS, Function, Name, Tool, ToolChoice

CACHED = Neutral(labels=(dict,))


class BlockPart(StrictPart):
    """A text of a turn."""

    neutral: ClassVar = {
        "cache_control": CACHED,
        "citations": Neutral(([],), "texts are read without citations"),
    }

    type: Literal["text"]
    text: StrictStr


Blocks = Annotated[
    StrictStr,
    BeforeValidator(
        joining("text", labels=("cache_control",)),
        json_schema_input_type=StrictStr | list[BlockPart],
    ),
]


class UsePart(StrictPart):
    """A call of a tool by the assistant."""

    neutral: ClassVar = {"cache_control": CACHED, "caller": CACHED, "toolset_name": LABEL}

    type: Literal["tool_use"]
    id: StrictStr
    name: Name
    input: dict[str, Any]


class ResultPart(StrictPart):
    """The result of a call."""

    neutral: ClassVar = {"cache_control": CACHED, "toolset_name": LABEL}

    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: Blocks = ""
    is_error: StrictBool | None = None


class ThinkingPart(StrictPart):
    """Thoughts of the model, as the answer had them; templates do not get them."""

    neutral: ClassVar = {"signature": LABEL, "cache_control": CACHED}

    type: Literal["thinking"]
    thinking: StrictStr


KINDS = {
    "text": "block text",
    "thinking": "block thinking",
    "tool_use": "block use",
    "tool_result": "block result",
}
"""Tags of the blocks by type; they are not identifiers, so that errors do not name them."""


def _kind(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    return KINDS.get(kind) if isinstance(kind, str) else None


Part = Annotated[
    Annotated[BlockPart, Tag("block text")]
    | Annotated[UsePart, Tag("block use")]
    | Annotated[ResultPart, Tag("block result")]
    | Annotated[ThinkingPart, Tag("block thinking")],
    Discriminator(_kind),
]


def _as_parts(given: Any) -> Any:
    """A list of parts of known types; a text is one part."""
    if isinstance(given, str):
        return [{"type": "text", "text": given}]
    for i, part in enumerate(given if isinstance(given, list) else []):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise part_fault(i, "is not an object with a type")
        if kind not in KINDS:
            known = "only text, thinking, tool_use and tool_result are supported"
            raise part_fault(i, f"is of type {kind[:64]!r}; {known}")
    return given


Parts = Annotated[
    list[Part],
    Field(fail_fast=True, max_length=MOST),
    BeforeValidator(_as_parts, json_schema_input_type=StrictStr | list[Part]),
]


class Turn(StrictPart):
    """A message of a conversation in Anthropic's API."""

    role: Literal["system", "user", "assistant"]
    content: Parts

    def add_to(self, messages: list[Message]) -> None:
        """Append it as messages of a chat: results of calls before the text of a user."""
        texts = [part.text for part in self.content if isinstance(part, BlockPart)]
        uses = [part for part in self.content if isinstance(part, UsePart)]
        results = [part for part in self.content if isinstance(part, ResultPart)]
        for result in results:
            add_result(messages, result.tool_use_id, result.content)
        if texts or not results:
            said = Message.model_construct(role=self.role, content="\n".join(texts))
            messages.append(said)
        for use in uses:
            add_call(messages, use.id, use.name, orjson.dumps(use.input).decode())

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        for part in self.content:
            if isinstance(part, UsePart | ThinkingPart) and self.role != "assistant":
                raise refuse("content", f"{part.type} is the assistant's")
            if isinstance(part, ResultPart) and self.role != "user":
                raise refuse("content", "tool_result is the user's")
        return self


Turns = Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MOST)]


class CustomTool(StrictPart):
    """A tool that the model may call."""

    neutral: ClassVar = {
        "cache_control": CACHED,
        "allowed_callers": Neutral((["direct"],), "programs are not run"),
        "defer_loading": Neutral((False,), "all tools are shown"),
        "eager_input_streaming": Neutral((False, True), "calls are sent when they are complete"),
        "input_examples": Neutral(([],), "chat templates have no place for them"),
    }

    type: Literal["custom"] = "custom"
    name: Name
    description: StrictStr | None = None
    input_schema: dict[str, Any]
    strict: StrictBool | None = None

    def tool(self) -> Tool:
        """The same as a tool of a chat."""
        function = Function.model_construct(
            name=self.name,
            description=self.description,
            parameters=self.input_schema,
            strict=self.strict,
        )
        return Tool.model_construct(type="function", function=function)


CustomTools = Annotated[list[CustomTool], Field(fail_fast=True, max_length=MOST_TOOLS)]


class Choosing(StrictPart):
    """Whether a tool is called."""

    type: Literal["auto", "any", "none", "tool"]
    name: Name | None = None
    disable_parallel_tool_use: StrictBool | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise refuse("name", "name is needed with type tool, and with no other")
        return self

    def choice(self) -> ToolChoice:
        """The same as the choice of a chat."""
        if self.type == "tool":
            return named(self.name or "")
        return "required" if self.type == "any" else self.type
