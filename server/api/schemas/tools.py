"""Tools that a request offers, and calls of them in conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictStr

from server.api.schemas.strict import StrictPart
from server.output.calls import object_of

MOST_TOOLS = 128
Name = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_.-]+$", max_length=64)]


class Function(StrictPart):
    """A function that the model may call."""

    name: Name
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class Tool(StrictPart):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function

    def shown(self) -> dict[str, Any]:
        """The form that chat templates read."""
        given = self.function.model_dump(include={"name", "description", "parameters"})
        given = {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": given}


Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MOST_TOOLS)]


class NamedFunction(StrictPart):
    """The name of a function."""

    name: Name


class NamedChoice(StrictPart):
    """The one function that is called."""

    type: Literal["function"]
    function: NamedFunction


Mode = Literal["none", "auto", "required"]
ToolChoice = Mode | NamedChoice


def json_object(text: str) -> str:
    """Validator of the JSON text of an object."""
    if object_of(text) is None:
        raise ValueError("must be the JSON text of an object")
    return text


class CalledFunction(StrictPart):
    """The function of a call, and its arguments as JSON."""

    name: Name
    arguments: Annotated[StrictStr, AfterValidator(json_object)]


class ToolCall(StrictPart):
    """A call in a message of the assistant."""

    id: StrictStr
    type: Literal["function"] = "function"
    function: CalledFunction

    def shown(self) -> dict[str, Any]:
        """The form that chat templates read: the arguments as an object."""
        name, arguments = self.function.name, object_of(self.function.arguments)
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }


ToolCalls = Annotated[list[ToolCall], Field(fail_fast=True, max_length=MOST_TOOLS)]
