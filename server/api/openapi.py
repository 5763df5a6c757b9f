"""The specification of the routes: what FastAPI reads off them, made true to what they check."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from server.api.context import State
from server.api.routes.trajectory_pictures import PictureBody
from server.api.schemas import fields
from server.api.schemas.responses.openapi import STREAMED
from server.http.middleware import NEEDS_NO_KEY

ABOUT = (
    "An OpenAI-compatible server for discrete-diffusion language models. Every field of a body is "
    "honoured or refused by name."
)
TAGS = [
    {"name": "text", "description": "Writing by denoising."},
    {"name": "images", "description": "Drawing by denoising."},
    {"name": "models", "description": "What is served."},
    {"name": "tokens", "description": "Text to ids and back."},
    {"name": "status", "description": "For those who run the server."},
]


def document(app: FastAPI, state: State) -> dict[str, Any]:
    """The specification of an application, with the bounds of its settings and checkpoint."""
    spec = get_openapi(
        title="xdlm-serve",
        version=version("xdlm-serve"),
        description=ABOUT,
        routes=app.routes,
        tags=TAGS,
        separate_input_output_schemas=False,
    )
    _, streamed = models_json_schema(
        [(model, "validation") for model in (*STREAMED, PictureBody)],
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
    """Put beside each property what is said of it, and its own words first. Bounds are of numbers,
    texts or lists, so they may stand beside alternatives that are none.
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
