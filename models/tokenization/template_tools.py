"""Parts of a conversation that a chat template reads: tools and calls of them, and settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

TAGS = ("<tool_call>", "</tool_call>")
"""Around a call in Hermes' syntax, which Qwen's templates and those made after them ask for."""
OTHER_SYNTAX = "<function="
"""In templates that have other things between these tags."""


@dataclass(frozen=True)
class ToolSupport:
    """The parts of a conversation with tools that a template shows.

    Attributes:
        tools: the tools themselves.
        calls: calls in messages of the assistant.
        results: messages of the role ``tool``.
        tags: texts before and after a call that the model writes, as a JSON object with ``name``
            and ``arguments``; None where the template asks for no such calls.
    """

    tools: bool = False
    calls: bool = False
    results: bool = False
    tags: tuple[str, str] | None = None

    @classmethod
    def of(cls, source: str, tree: nodes.Template) -> ToolSupport:
        """Found in a template's text and its grammar."""
        constants = {node.value for node in tree.find_all(nodes.Const) if _is_text(node)}
        read = {node.attr for node in tree.find_all(nodes.Getattr)} | constants
        # not jinja2.meta, which works out constants: a template can make that take for ever
        tools = any(node.name == "tools" for node in tree.find_all(nodes.Name))
        hermes = all(part in source for part in (*TAGS, '"arguments"'))
        return cls(
            tools=tools,
            calls="tool_calls" in read,
            results="tool" in constants,
            tags=TAGS if tools and hermes and OTHER_SYNTAX not in source else None,
        )


def settings_of(tree: nodes.Template, given: Collection[str]) -> frozenset[str]:
    """Variables that a template reads and does not make itself, such as ``enable_thinking``.

    ``given``: names of those that every conversation has.
    """
    made = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    made |= {node.name for node in tree.find_all(nodes.Macro)}
    # a variable that is asked for before it is made, as in {% set x = x if x is defined else 0 %}
    tests = {"defined", "undefined", "default", "d"}
    asked = [node for node in tree.find_all((nodes.Test, nodes.Filter)) if node.name in tests]
    made -= {node.node.name for node in asked if isinstance(node.node, nodes.Name)}
    read = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    return frozenset(read - made - set(given))


def _is_text(node: nodes.Const) -> bool:
    return isinstance(node.value, str)


def texts_in(value: Any) -> Iterator[str]:
    """All texts within a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)
