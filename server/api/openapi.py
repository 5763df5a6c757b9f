"""The OpenAPI document: FastAPI's, with the bounds and descriptions of this server's fields."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from server.api.context import State
from server.api.routes.trajectory_pictures import PictureBody
from server.api.schemas import fields
from server.api.schemas.responses.openapi import STREAMED
from server.http.described_route import DescribedRoute
from server.http.middleware import NEEDS_NO_KEY

ABOUT = (
    "An OpenAI-compatible server for discrete-diffusion language models. Unknown and unsupported "
    "fields of a body are rejected by name."
)
TAGS = [
    {"name": "text", "description": "Text generation and scoring."},
    {"name": "images", "description": "Image generation."},
    {"name": "models", "description": "Served models."},
    {"name": "tokens", "description": "Tokenization."},
    {"name": "status", "description": "Health, version and metrics."},
]


def document(app: FastAPI, state: State) -> dict[str, Any]:
    """The OpenAPI document of an application, with the limits of its settings and models."""
    spec = get_openapi(
        title="xdlm-serve",
        version=version("xdlm-serve"),
        description=ABOUT,
        routes=[r.described() if isinstance(r, DescribedRoute) else r for r in app.routes],
        tags=TAGS,
        separate_input_output_schemas=False,
    )
    _, streamed = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in (*STREAMED, PictureBody)],
        ref_template="#/components/schemas/{model}",
    )
    schemas = spec["components"]["schemas"]
    schemas |= streamed["$defs"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are Error
        schemas.pop(name, None)
    infos = [engine.checkpoint.info for engine in state.engines.values()]
    ours = fields.by_settings(state.settings, infos)
    for name, schema in schemas.items():
        said = fields.PARTS.get(name, {})
        if name.endswith("Body"):
            said = {**fields.FIELDS, **said}
        _describe(schema["properties"], said, ours if name.endswith("Body") else {})
    spec["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            asks = bool(state.settings.keys) and path not in NEEDS_NO_KEY
            operation["security"] = [{"key": []}] if asks else []
    return spec


def _describe(properties: dict[str, Any], said: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Add descriptions and bounds to properties; keywords that a property has already stay.

    Bounds apply to one JSON type each, so they may stand beside alternatives of other types.
    """
    for name, schema in properties.items():
        more = {**said.get(name, {}), **ours.get(name, {})}
        members = more.pop("members", {})
        for key, value in more.items():
            schema.setdefault(key, value)
        for kind in schema.get("anyOf", [schema]):
            while kind.get("type") == "array":
                kind = kind["items"]
                kind |= members.get(kind.get("type"), {})
