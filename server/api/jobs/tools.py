"""The tools of a request: shown to the template, and read from the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.tokenization.template_tools import ToolSupport
from models.tokenization.tokenizer import TextTokenizer
from server.api.schemas.messages import Message
from server.api.schemas.tools import Function, NamedChoice, Tool, ToolChoice
from server.constraints.spec import Spec, any_of, json_object, json_schema, sequence, text
from server.http.errors import ApiError
from server.output.calls import CallReader, ForcedCall, TaggedCalls, TextOnly


@dataclass(frozen=True)
class ToolPlan:
    """How tools take part in an answer.

    Attributes:
        shown: as the chat template gets them.
        names: of functions that may be called.
        tags: around calls in the text; None where there are none.
        single: the answer has one call at most.
        forced: functions of which one is called, and nothing else is written.
        text: language of the texts that may be written instead of a call of one of these.
    """

    shown: Sequence[Mapping[str, Any]] = ()
    names: frozenset[str] = frozenset()
    tags: tuple[str, str] | None = None
    single: bool = False
    forced: Sequence[Function] = ()
    text: Spec | None = None

    @property
    def calls(self) -> bool:
        """Whether the answer may have calls."""
        return self.tags is not None or bool(self.forced)

    def spec(self) -> Spec | None:
        """The constraint of the text: one call with arguments of the function's schema, or
        ``text``.
        """
        if not self.forced:
            return self.text
        calls = [
            sequence(
                [
                    text(self._beginning(function.name)),
                    json_object()
                    if function.parameters is None
                    else json_schema(function.parameters),
                    text(self._ending),
                ]
            )
            for function in self.forced
        ]
        return any_of(calls if self.text is None else [*calls, self.text])

    def _beginning(self, name: str) -> str:
        """The text before the arguments of a call."""
        before = "" if self.tags is None else f"{self.tags[0]}\n"
        return f'{before}{{"name": "{name}", "arguments": '

    @property
    def _ending(self) -> str:
        """The text after the arguments of a call."""
        return "}" if self.tags is None else f"}}\n{self.tags[1]}"

    def reader(self) -> CallReader:
        """Reads the text of one choice."""
        if self.forced:
            names = [function.name for function in self.forced]
            return ForcedCall({self._beginning(name): name for name in names}, self._ending)
        return TextOnly() if self.tags is None else TaggedCalls(self.tags, self.names, self.single)


def plan_of(
    tokenizer: TextTokenizer,
    tools: Sequence[Tool] | None,
    choice: ToolChoice | None,
    single: bool,
    constraint: tuple[str, Spec] | None,
) -> ToolPlan:
    """How the tools of a request take part in its answer.

    Args:
        tokenizer: of the checkpoint, with its chat template.
        tools: offered ones.
        choice: whether one is called; by default ``auto`` where there are some.
        single: no more than one call is made.
        constraint: field of the body that constrains the text, and its language.

    Raises:
        ApiError: 400 for a choice that the tools, the constraint or the checkpoint do not allow.
    """
    field, language = (None, None) if constraint is None else constraint
    if not tools:
        if choice not in (None, "none", "auto"):
            raise _refused("needs tools")
        return ToolPlan(text=language)
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ApiError(400, f"tools: {twice!r} is there twice", param="tools")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise _refused(f"names {choice.function.name!r}, which is none of the tools")
    if choice == "none":
        return ToolPlan(text=language)
    tags = _tags(tokenizer)
    supports = ToolSupport() if tokenizer.chat is None else tokenizer.chat.supports
    if choice not in (None, "auto"):
        if language is not None:
            raise _refused(f"that makes a call is not supported with {field}")
        named = choice.function.name if isinstance(choice, NamedChoice) else None
        return ToolPlan(
            shown=[tool.shown() for tool in tools] if supports.tools else [],
            names=frozenset(names),
            tags=tags,
            forced=[t.function for t in tools if named in (None, t.function.name)],
        )
    if tags is None:
        raise _refused(
            "auto needs a chat template that shows tools and says how the model writes a call; "
            "this checkpoint's does not"
        )
    shown = [tool.shown() for tool in tools]
    if language is not None:
        if language.kind not in ("json_schema", "json_object"):
            raise ApiError(
                400, f"tools are supported with JSON, and not with this {field}", param="tools"
            )
        functions = [tool.function for tool in tools]
        return ToolPlan(shown, frozenset(names), tags, forced=functions, text=language)
    for i, tool in enumerate(tools):
        if tool.function.strict:
            raise ApiError(
                400,
                f"tools[{i}].function.strict: with tool_choice auto the model writes the "
                "arguments freely; they cannot be bound to the schema",
                param="tools",
            )
    return ToolPlan(shown, frozenset(names), tags, single)


def _tags(tokenizer: TextTokenizer) -> tuple[str, str] | None:
    """The tags around calls, where the template asks for them and texts can contain them."""
    tags = None if tokenizer.chat is None else tokenizer.chat.supports.tags
    return None if tags is None or any(map(tokenizer.is_special, tags)) else tags


def _refused(why: str) -> ApiError:
    return ApiError(400, f"tool_choice {why}", param="tool_choice", code="invalid_value")


def check_messages(tokenizer: TextTokenizer, messages: Sequence[Message], field: str) -> None:
    """Refuse messages with calls, or of the role ``tool``, that the chat template would not show.

    Raises:
        ApiError: 400 naming the message.
    """
    supports = ToolSupport() if tokenizer.chat is None else tokenizer.chat.supports
    for i, message in enumerate(messages):
        for given, shown, what in (
            (message.role == "tool", supports.results, "role: no messages of the role tool"),
            (bool(message.tool_calls), supports.calls, "tool_calls: no calls"),
        ):
            if given and not shown:
                name, _, words = what.partition(": ")
                raise ApiError(
                    400,
                    f"{field}[{i}].{name}: this checkpoint's chat template shows {words}",
                    param=field,
                    code="chat_template",
                )
