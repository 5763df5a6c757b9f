"""Conversations as /v1/responses and /v1/messages take them, and as messages of a chat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictStr

from server.api.schemas.messages import MOST, Message, joining
from server.api.schemas.neutral import LABEL, Neutral
from server.api.schemas.strict import StrictPart

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

    def message(self) -> Message:
        """The same as a message of a chat."""
        return Message.model_construct(role=self.role, content=self.content)


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Input = Annotated[
    list[InputMessage],
    Field(fail_fast=True, min_length=1, max_length=MOST),
    BeforeValidator(_as_items, json_schema_input_type=StrictStr | list[InputMessage]),
]
"""Items of an input; a text is the message of a user."""


class BlockPart(StrictPart):
    """A text of a turn."""

    neutral: ClassVar = {
        "cache_control": Neutral(labels=(dict,)),
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


class Turn(StrictPart):
    """A message of a conversation in Anthropic's API."""

    role: Literal["system", "user", "assistant"]
    content: Blocks

    def message(self) -> Message:
        """The same as a message of a chat."""
        return Message.model_construct(role=self.role, content=self.content)


Turns = Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MOST)]
