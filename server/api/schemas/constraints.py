"""Fields of bodies that constrain the text: OpenAI's, vLLM's older and newer ones."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, with_config
from typing_extensions import TypedDict

from server.api.schemas.neutral import Neutral
from server.api.schemas.strict import StrictPart, refuse
from server.constraints import spec
from server.constraints.spec import Spec
from server.http.errors import ApiError

MOST_CHOICES = 1024
Schema = dict[str, Any]
Choices = Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)]


class ResponseFormat(StrictPart):
    """OpenAI's ``response_format``, and one for regular expressions."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: Schema | None = None
    regex: StrictStr | None = None

    def spec(self, field: str) -> Spec | None:
        """The constraint; None for text. ``field`` names the format in errors.

        Raises:
            ApiError: 400, its own field is missing, or another's is there.
        """
        for kind in ("json_schema", "regex"):
            given = getattr(self, kind) is not None
            if given != (self.type == kind):
                verb = "needs" if self.type == kind else "does not take"
                raise _bad(field, f"type {self.type} {verb} {kind}")
        if self.json_schema is not None:
            return spec.json_schema(_schema_of(self.json_schema, field))
        if self.regex is not None:
            return spec.regex(self.regex)
        return spec.json_object() if self.type == "json_object" else None

    def flat(self) -> Schema:
        """With the fields of the schema beside the type, as /v1/responses has it."""
        return {"type": self.type, **(self.json_schema or {})}


def _schema_of(given: Schema, field: str) -> Any:
    """The schema of OpenAI's wrapper."""
    for name, value in given.items():
        allowed = {
            "name": str | None,
            "description": str | None,
            "strict": bool | None,
            "schema": dict,
        }
        if name not in allowed:
            raise _bad(field, f"has an unknown field {name[:64]!r} beside its schema")
        if not isinstance(value, allowed[name]):
            raise _bad(field, f"has a {name} of the wrong type")
    if "schema" not in given:
        raise _bad(field, "of type json_schema needs schema")
    return given["schema"]


@with_config(ConfigDict(extra="forbid"))
class FlatSchema(TypedDict):
    """A format whose schema stands beside its type."""

    type: Literal["json_schema"]
    schema: Schema
    name: NotRequired[StrictStr | None]
    description: NotRequired[StrictStr | None]
    strict: NotRequired[StrictBool | None]


@with_config(ConfigDict(extra="forbid"))
class PlainFormat(TypedDict):
    """A format without a schema."""

    type: Literal["text", "json_object"]


def _beside(*kinds: str) -> Any:
    """Validator that puts the schema of a format of these kinds where chat completions have it."""

    def nested(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind = given.get("type")
        if kind not in kinds:
            known = "must be" if len(kinds) == 1 else "must be one of"
            raise refuse("type", f"type {known} {', '.join(kinds)}")
        rest = {name: value for name, value in given.items() if name != "type"}
        return {"type": kind, "json_schema": rest} if kind == "json_schema" else given

    return nested


TextFormat = Annotated[
    ResponseFormat,
    BeforeValidator(
        _beside("text", "json_object", "json_schema"),
        json_schema_input_type=FlatSchema | PlainFormat,
    ),
]
"""The format of a text of /v1/responses."""
OutputFormat = Annotated[
    ResponseFormat, BeforeValidator(_beside("json_schema"), json_schema_input_type=FlatSchema)
]
"""The format of a text of /v1/messages."""


STRUCTURED: dict[str, Neutral] = {
    "grammar": Neutral((), "grammars are not regular; use json or regex"),
    "structural_tag": Neutral((), "use json or regex"),
    "whitespace_pattern": Neutral((), "there are as few blanks as there can be"),
    "disable_any_whitespace": Neutral((True, False)),
    "disable_additional_properties": Neutral((True, False)),
    "disable_fallback": Neutral((True, False)),
}
"""Further fields of vLLM's ``structured_outputs``."""
KINDS = ("json", "regex", "choice", "json_object")


def of_structured_outputs(given: Schema) -> Spec:
    """The constraint of vLLM's ``structured_outputs``.

    Raises:
        ApiError: 400 naming the field.
    """
    field = "structured_outputs"
    said = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        neutral = STRUCTURED.get(name)
        if neutral is not None and not neutral.allows(value, given):
            raise _bad(field, f"{name} is not supported{neutral.reason}")
        if neutral is None and name not in KINDS:
            raise _bad(field, f"has an unknown field {name[:64]!r}")
    chosen = [name for name in KINDS if said.get(name, False) is not False]
    if len(chosen) != 1:
        raise _bad(field, f"needs one of {', '.join(KINDS)}; got {len(chosen)}")
    (kind,) = chosen
    if kind == "json_object":
        if said[kind] is not True:
            raise _bad(field, "json_object must be true or false")
        return spec.json_object()
    return _of(field, kind, said[kind])


def _of(field: str, kind: str, value: Any) -> Spec:
    """The constraint of a schema, a regular expression or choices.

    Raises:
        ApiError: 400 naming the field.
    """
    if kind == "json":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise _bad(field, "must be a JSON schema; its text is no JSON") from None
        if not isinstance(value, dict):
            raise _bad(field, "must be a JSON schema, as an object or its text")
        return spec.json_schema(value)
    if kind == "regex":
        if not isinstance(value, str):
            raise _bad(field, "must have a regular expression as a text")
        return spec.regex(value)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise _bad(field, "must have choices as a list of texts")
    if not 0 < len(value) <= MOST_CHOICES:
        raise _bad(field, f"has {len(value)} choices; there may be 1 to {MOST_CHOICES}")
    return spec.choice(value)


class ConstraintFields(StrictPart):
    """Fields that constrain the text; a body may have one of them.

    Attributes:
        format_field: the name of ``response_format`` on the route.
    """

    format_field: ClassVar[str] = "response_format"

    response_format: ResponseFormat | None = None
    structured_outputs: Schema | None = None
    guided_json: Schema | StrictStr | None = None
    guided_regex: StrictStr | None = None
    guided_choice: Choices | None = None

    def constraint(self) -> tuple[str, Spec] | None:
        """The field that constrains the text, and its constraint; None where none does.

        Raises:
            ApiError: 400 naming a field.
        """
        found: dict[str, Spec | None] = {}
        if self.response_format is not None:
            found[self.format_field] = self.response_format.spec(self.format_field)
        if self.structured_outputs is not None:
            found["structured_outputs"] = of_structured_outputs(self.structured_outputs)
        for kind in ("json", "regex", "choice"):
            field = f"guided_{kind}"
            if (value := getattr(self, field)) is not None:
                found[field] = _of(field, kind, value)
        chosen = [(field, one) for field, one in found.items() if one is not None]
        if len(chosen) > 1:
            (first, _), (second, _), *_ = chosen
            raise _bad(second, f"and {first} exclude each other")
        return chosen[0] if chosen else None


def _bad(field: str, reason: str) -> ApiError:
    return ApiError(400, f"{field} {reason}", param=top_of(field), code="invalid_value")


def top_of(field: str) -> str:
    """The first field that a name such as ``text.format`` or ``tools with text.format`` has."""
    return re.split(r"\W", field, maxsplit=1)[0]
