"""Constraints of a text as requests state them, and their expressions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from server.constraints.expressions import Expressions
from server.constraints.json_schema import schema_expression
from server.constraints.json_values import Json
from server.constraints.regex import parsed

Kind = Literal["json_schema", "json_object", "regex", "choice", "text", "sequence", "any_of"]


@dataclass(frozen=True)
class Spec:
    """A language of texts.

    Attributes:
        kind: which of the functions below made it.
        value: the schema, the regular expression, the choices or the parts; plain JSON.
    """

    kind: Kind
    value: Any = None

    @cached_property
    def key(self) -> str:
        """Equal for equal constraints; short, since it is kept."""
        return hashlib.sha256(json.dumps([self.kind, self.value]).encode()).hexdigest()


def json_schema(schema: Any) -> Spec:
    """JSON texts of a schema."""
    return Spec("json_schema", schema)


def json_object() -> Spec:
    """Any JSON object, up to a depth."""
    return Spec("json_object")


def regex(source: str) -> Spec:
    """Texts that a regular expression matches as a whole."""
    return Spec("regex", source)


def choice(texts: Sequence[str]) -> Spec:
    """One of several texts."""
    return Spec("choice", list(texts))


def text(fixed: str) -> Spec:
    """Exactly one text."""
    return Spec("text", fixed)


def sequence(parts: Sequence[Spec]) -> Spec:
    """A text of each, one after the other."""
    return Spec("sequence", [[part.kind, part.value] for part in parts])


def any_of(parts: Sequence[Spec]) -> Spec:
    """A text of any of them."""
    return Spec("any_of", [[part.kind, part.value] for part in parts])


def expression_of(expressions: Expressions, kind: str, value: Any) -> int:
    """The expression of a constraint.

    Raises:
        BadRegex: a regular expression that cannot be compiled.
        BadSchema: a schema that cannot be compiled.
        TooComplex: it exceeds a limit.
    """
    if kind == "json_schema":
        return schema_expression(expressions, value)
    if kind == "json_object":
        return Json(expressions).object()
    if kind == "regex":
        return parsed(expressions, value)
    if kind == "choice":
        return expressions.any_of([expressions.text(option) for option in value])
    if kind == "text":
        return expressions.text(value)
    parts = [expression_of(expressions, *part) for part in value]
    return expressions.sequence(parts) if kind == "sequence" else expressions.any_of(parts)
