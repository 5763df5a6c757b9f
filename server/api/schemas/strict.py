"""Objects in which every field is honoured or refused by name."""

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
"""Like every list of a body it is checked up to its first fault: a report of all of them would take
far more time and memory than the body.
"""


class StrictPart(BaseModel):
    """An object in which every field is honoured or refused by name. Null is as good as nothing
    for every field that may be left out.

    ``neutral`` lists fields of other servers that are accepted only where they change nothing.
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
        """The refusal of what is no object."""
        return "must be a JSON object"

    @classmethod
    def passes_over(cls, value: Any, data: Mapping[str, Any]) -> bool:
        """Whether a field of ``data`` that the model has not may have the value."""
        return False


class StrictBody(StrictPart):
    """A JSON body."""

    @classmethod
    def no_object(cls) -> str:
        """See ``StrictPart``."""
        return "the body must be a JSON object"


def refuse(field: str, message: str) -> PydanticCustomError:
    """A fault of a field, to be raised by validators."""
    return PydanticCustomError("refused", "{message}", {"message": message, "field": field})
