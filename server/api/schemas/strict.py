"""Request objects that reject unknown and unsupported fields by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from server.api.schemas.neutral import Neutral

Number = Annotated[float, Field(strict=True)]
Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
"""Token ids. Lists are checked up to the first error, since a report of all errors would take far
more time and memory than the body.
"""


OpenIds = Annotated[list[StrictInt | None], Field(fail_fast=True)]
"""Token ids, null for positions without one."""


class StrictPart(BaseModel):
    """A request object that rejects unknown fields by name. Null counts as left out.

    ``neutral`` lists unsupported fields that are accepted at values that change nothing.
    """

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Mapping[str, Neutral]] = {}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        properties, required = resolved["properties"], resolved.get("required", [])
        for name, said in properties.items():
            kinds = said.get("anyOf", [said])
            if name not in required and {"type": "null"} not in kinds:
                typed = {k: said.pop(k) for k in list(said) if k not in ("default", "title")}
                said["anyOf"] = [*typed.pop("anyOf", [typed]), {"type": "null"}]
        properties |= {name: neutral.schema() for name, neutral in cls.neutral.items()}
        return schema

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if isinstance(data, cls):  # has been checked
            return data
        if not isinstance(data, dict):
            raise ValueError(cls.no_object())
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                if value is not None or cls.model_fields[name].is_required():
                    kept[name] = value
            elif cls.passes_over(value, data):
                continue
            elif name in cls.neutral:
                if value is not None and not cls.neutral[name].allows(value, data):
                    raise refuse(name, f"{name} is not supported{cls.neutral[name].reason}")
            else:
                name = name[:64]
                near = difflib.get_close_matches(name, [*cls.model_fields, *cls.neutral], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise refuse(name, f"unknown field {name!r}{hint}")
        return kept

    @classmethod
    def no_object(cls) -> str:
        """The error message for a value that is not an object."""
        return "must be a JSON object"

    @classmethod
    def passes_over(cls, value: Any, data: Mapping[str, Any]) -> bool:
        """Whether an unknown field of ``data`` is ignored because of its value."""
        return False


class StrictBody(StrictPart):
    """A request body."""

    @classmethod
    def no_object(cls) -> str:
        """See ``StrictPart``."""
        return "the body must be a JSON object"


def refuse(field: str, message: str) -> PydanticCustomError:
    """A validation error of a field."""
    return PydanticCustomError("refused", "{message}", {"message": message, "field": field})
