"""Messages of conversations, also in the form in which servers return them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from server.api.schemas.neutral import LABEL, NO_SOUND, Neutral, says_nothing
from server.api.schemas.strict import StrictPart, refuse
from server.api.schemas.tools import ToolCalls

OF_ANSWERS = {
    "refusal": Neutral((), "a message says its text"),
    "annotations": Neutral((), "a message says its text"),
    "audio": Neutral((), NO_SOUND),
    "function_call": Neutral((), "use tool_calls"),
    "reasoning": LABEL,
    "reasoning_content": LABEL,
    "provider_specific_fields": Neutral(({},), "nothing in it is used"),
}
"""Fields of servers' answers that clients send back with the conversation."""


MOST = 4096  # messages of a conversation, and parts of a message


class TextPart(StrictPart):
    """A piece of a message's content."""

    type: Literal["text"]
    text: StrictStr


def joining(*kinds: str, labels: Collection[str] = ()) -> Callable[[Any], Any]:
    """Validator that joins text parts by line breaks; other values it returns as they are.

    Args:
        *kinds: types of parts that are texts.
        labels: further fields of a part that are accepted at any value.
    """
    only = f"only {' and '.join(kinds)} {'is' if len(kinds) == 1 else 'are'} supported"

    def joined(given: Any) -> Any:
        if not isinstance(given, list):
            return given
        if len(given) > MOST:
            raise ValueError(f"{len(given)} parts; the limit is {MOST}")
        texts = []
        for i, part in enumerate(given):
            kind = part.get("type") if isinstance(part, dict) else None
            if not isinstance(part, dict) or not isinstance(kind, str):
                raise part_fault(i, "is not an object with a type")
            if kind not in kinds:
                raise part_fault(i, f"is of type {kind[:64]!r}; {only}")
            if not isinstance(part.get("text"), str):
                raise part_fault(i, "has no text")
            for name, value in part.items():
                known = name in TextPart.model_fields or name in labels
                if not known and not says_nothing(value):
                    raise part_fault(i, f"has an unknown field {name[:64]!r}")
            texts.append(part["text"])
        return "\n".join(texts)

    return joined


def part_fault(number: int, fault: str) -> PydanticCustomError:
    """The error of one part of a content."""
    return PydanticCustomError("part", "{message}", {"message": f"part {number} {fault}"})


Content = Annotated[
    StrictStr,
    BeforeValidator(joining("text"), json_schema_input_type=StrictStr | list[TextPart] | None),
]


NULL = {"type": "null"}
SPOKEN = {"anyOf": [{"type": "string"}, {"type": "array"}]}
BY_ROLE = [
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]},
            "content": SPOKEN,
            "tool_calls": NULL,
            "tool_call_id": NULL,
        }
    },
    {"properties": {"role": {"enum": ["assistant"]}, "tool_call_id": NULL}},
    {
        "properties": {
            "role": {"enum": ["tool"]},
            "content": SPOKEN,
            "tool_calls": NULL,
            "tool_call_id": {"type": "string"},
        },
        "required": ["tool_call_id"],
    },
]
"""The fields of a message by its role, for the specification."""


class Message(StrictPart):
    """A message. An assistant's may lack content and have unknown fields that are empty."""

    model_config = ConfigDict(json_schema_extra={"anyOf": BY_ROLE})
    neutral: ClassVar = OF_ANSWERS

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: StrictStr | None = None
    tool_calls: ToolCalls | None = None
    tool_call_id: StrictStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _silent(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("role") == "assistant":
            return {**data, "content": "" if data.get("content") is None else data["content"]}
        return data

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise refuse("tool_calls", "tool_calls are the assistant's")
        if (self.tool_call_id is None) == (self.role == "tool"):
            needed = "is needed by" if self.role == "tool" else "is for"
            raise refuse("tool_call_id", f"tool_call_id {needed} messages of the role tool")
        return self

    @classmethod
    def passes_over(cls, value: Any, data: Mapping[str, Any]) -> bool:
        """See ``StrictPart``."""
        return value is None or (data.get("role") == "assistant" and says_nothing(value))

    def plain(self) -> dict[str, Any]:
        """The form that chat templates read."""
        told: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.content,
        }
        if self.tool_calls:
            told["tool_calls"] = [call.shown() for call in self.tool_calls]
        if self.tool_call_id is not None:
            told |= {"tool_call_id": self.tool_call_id}
            told |= {} if self.name is None else {"name": self.name}
        return told


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MOST)]
