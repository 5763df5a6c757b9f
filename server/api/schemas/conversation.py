"""Conversations and tools as /v1/responses takes them, and as those of a chat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    Tag,
)

from server.api.schemas.messages import MOST, Message, joining
from server.api.schemas.neutral import LABEL, Neutral
from server.api.schemas.strict import StrictPart
from server.api.schemas.tools import (
    MOST_TOOLS,
    CalledFunction,
    Function,
    Mode,
    Name,
    NamedChoice,
    NamedFunction,
    Tool,
    ToolCall,
    ToolChoice,
    json_object,
)

Role = Literal["system", "developer", "user", "assistant"]


class InputTextPart(StrictPart):
    """A text of an input message."""

    neutral: ClassVar = {
        "annotations": Neutral(([],), "texts are read without annotations"),
        "logprobs": Neutral(([],), "texts are read without log-probabilities"),
    }

    type: Literal["input_text", "output_text"]
    text: StrictStr


InputContent = Annotated[
    StrictStr,
    BeforeValidator(
        joining("input_text", "output_text"),
        json_schema_input_type=StrictStr | list[InputTextPart],
    ),
]


class InputMessage(StrictPart):
    """A message of an input, also in the form in which the answer had it."""

    neutral: ClassVar = {"id": LABEL, "status": LABEL, "phase": LABEL}

    type: Literal["message"] = "message"
    role: Role
    content: InputContent

    def add_to(self, messages: list[Message]) -> None:
        """Append it as a message of a chat."""
        messages.append(Message.model_construct(role=self.role, content=self.content))


class InputCall(StrictPart):
    """A call of a tool by the assistant, also in the form in which the answer had it."""

    neutral: ClassVar = {"id": LABEL, "status": LABEL}

    type: Literal["function_call"]
    call_id: StrictStr
    name: Name
    arguments: Annotated[StrictStr, AfterValidator(json_object)]

    def add_to(self, messages: list[Message]) -> None:
        """Append it to the assistant's last message, or to one without a text."""
        add_call(messages, self.call_id, self.name, self.arguments)


class InputResult(StrictPart):
    """The result of a call."""

    neutral: ClassVar = {"id": LABEL, "status": LABEL}

    type: Literal["function_call_output"]
    call_id: StrictStr
    output: InputContent

    def add_to(self, messages: list[Message]) -> None:
        """Append it as a message of the role ``tool``."""
        add_result(messages, self.call_id, self.output)


class ThoughtPart(StrictPart):
    """A text of what the model thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: StrictStr


class InputThoughts(StrictPart):
    """Thoughts of the model, as the answer had them; templates do not get them."""

    neutral: ClassVar = {"id": LABEL, "status": LABEL, "encrypted_content": LABEL}

    type: Literal["reasoning"]
    summary: list[ThoughtPart] | None = None
    content: list[ThoughtPart] | None = None

    def add_to(self, messages: list[Message]) -> None:
        """Nothing."""
        del messages


def add_call(messages: list[Message], id_: str, name: str, arguments: str) -> None:
    """Append a call to the assistant's last message, or to one without a text."""
    function = CalledFunction.model_construct(name=name, arguments=arguments)
    call = ToolCall.model_construct(id=id_, function=function)
    if messages and messages[-1].role == "assistant":
        before = messages.pop()
        made, content = [*(before.tool_calls or []), call], before.content
    else:
        made, content = [call], ""
    messages.append(Message.model_construct(role="assistant", content=content, tool_calls=made))


def add_result(messages: list[Message], id_: str, content: str) -> None:
    """Append the result of a call."""
    messages.append(Message.model_construct(role="tool", content=content, tool_call_id=id_))


KINDS = {
    "message": "item message",
    "function_call": "item call",
    "function_call_output": "item result",
    "reasoning": "item thoughts",
}
"""Tags of the items by type; they are not identifiers, so that errors do not name them."""


def _kind(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    return KINDS.get("message" if kind is None else kind) if isinstance(kind, str | None) else None


Item = Annotated[
    Annotated[InputMessage, Tag("item message")]
    | Annotated[InputCall, Tag("item call")]
    | Annotated[InputResult, Tag("item result")]
    | Annotated[InputThoughts, Tag("item thoughts")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="type must be one of message, function_call, function_call_output and "
        "reasoning",
    ),
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Input = Annotated[
    list[Item],
    Field(fail_fast=True, min_length=1, max_length=MOST),
    BeforeValidator(_as_items, json_schema_input_type=StrictStr | list[Item]),
]
"""Items of an input; a text is the message of a user."""


def messages_of(
    items: Iterable[InputMessage | InputCall | InputResult | InputThoughts],
) -> list[Message]:
    """Items as messages of a chat."""
    messages: list[Message] = []
    for item in items:
        item.add_to(messages)
    return messages


class FlatTool(StrictPart):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None

    def tool(self) -> Tool:
        """The same as a tool of a chat."""
        fields = {name: getattr(self, name) for name in Function.model_fields}
        return Tool.model_construct(type="function", function=Function.model_construct(**fields))


FlatTools = Annotated[list[FlatTool], Field(fail_fast=True, max_length=MOST_TOOLS)]


class FlatChoice(StrictPart):
    """The one function that is called."""

    type: Literal["function"]
    name: Name


def named(name: str) -> NamedChoice:
    """The choice of one function."""
    function = NamedFunction.model_construct(name=name)
    return NamedChoice.model_construct(type="function", function=function)


def choice_of(given: Mode | FlatChoice | None) -> ToolChoice | None:
    """The same as the choice of a chat."""
    return named(given.name) if isinstance(given, FlatChoice) else given
