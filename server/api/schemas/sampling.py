"""Sampling parameters as request fields, generated from the samplers' declarations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import StrictBool, StrictInt, create_model

from sampler import PARAMS, READERS, SAMPLERS
from sampler.params import Param
from server.api.schemas.responses.models import RequestParameter
from server.api.schemas.strict import Ids, Number, StrictBody

REQUESTABLE: dict[str, Param] = {n: p for n, p in PARAMS.items() if p.requestable}
"""Parameters that a request may set, by name."""


def _type_of(declared: Param) -> Any:
    if declared.kind == "choice":
        return Literal[declared.words]
    if declared.kind == "schedule":
        words: Any = Literal[declared.words]
        return words | Ids
    return {"number": Number, "integer": StrictInt, "flag": StrictBool}[declared.kind]


def schema_of(name: str, declared: Param) -> dict[str, Any]:
    """A parameter's description, example and bounds, as JSON Schema."""
    readers = ", ".join(READERS.get(name, ()))
    about = f"{readers}: {declared.doc}" if readers else declared.doc
    example = declared.default if declared.example is None else declared.example
    schema = {"description": f"{about}; the checkpoint's by default", "examples": [example]}
    if declared.kind in ("number", "integer"):
        schema["exclusiveMinimum" if declared.open_low else "minimum"] = declared.low
        schema["exclusiveMaximum" if declared.open_high else "maximum"] = declared.high
    return schema


FIELDS: dict[str, dict[str, Any]] = {
    "sampler": {
        "description": "sampling algorithm; the checkpoint's by default",
        "examples": ["topk"],
        "enum": [*SAMPLERS, None],
    },
    **{name: schema_of(name, declared) for name, declared in REQUESTABLE.items()},
}
"""JSON Schema of each sampling field, by name."""

_fields: dict[str, Any] = {n: (_type_of(p) | None, None) for n, p in REQUESTABLE.items()}
SamplingFields: type[StrictBody] = create_model(
    "SamplingFields", __base__=StrictBody, sampler=(str | None, None), **_fields
)
"""A body with ``sampler`` and one field for each parameter; None is the checkpoint's value."""


def described(name: str, declared: Param) -> RequestParameter:
    """A parameter's description in /v1/models, from which clients can build a form."""
    bounded = declared.kind in ("number", "integer")
    return {
        "name": name,
        "label": declared.label or name.replace("_", " ").capitalize(),
        "description": declared.doc,
        "kind": declared.kind,
        "samplers": list(READERS.get(name, SAMPLERS)),
        "choices": list(declared.words),
        "minimum": declared.low if bounded else None,
        "maximum": declared.high if bounded else None,
        "default": declared.default,
    }
