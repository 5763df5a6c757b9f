"""The OpenAPI document, as JSON and as an HTML page without scripts or external resources."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from jinja2 import Environment, StrictUndefined

from server.http.json_response import JsonResponse

Schema = dict[str, Any]
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "maxProperties": "at most {} entries",
}


def router_of(spec: Schema) -> APIRouter:
    """Routes that serve an OpenAPI document."""
    router = APIRouter(include_in_schema=False)
    page, policy = render(spec)

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return JsonResponse(spec)

    @router.get("/docs")
    async def docs() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    return router


def render(spec: Schema) -> tuple[str, str]:
    """The page, and a content security policy that allows its one style and nothing else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    folder = Path(__file__).parent
    style = (folder / "docs.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.from_string((folder / "docs.html").read_text(encoding="utf-8")).render(
        spec=spec,
        style=style,
        name_of=name_of,
        kind=kind,
        bounds=bounds,
        held=held,
        example=_example,
    )
    refused = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return page, f"{refused}; style-src 'sha256-{digest}'"


def name_of(schema: Schema) -> str | None:
    """The name of the component that a schema, or its items, refer to."""
    schema = schema.get("items", schema)
    return schema["$ref"].split("/")[3] if "$ref" in schema else None


def held(content: Schema) -> Schema:
    """The schema of a body, or of the data of a stream's events."""
    if "itemSchema" not in content:
        return content["schema"]
    item = content["itemSchema"]
    data = item.get("properties", {}).get("data", {})
    inner = data.get("then", data).get("contentSchema", item)
    return inner.get("anyOf", [inner])[0]


def kind(schema: Schema) -> str:
    """A schema's type in a few words."""
    if found := name_of(schema):
        return f"list of {found}" if "items" in schema else found
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {kind(values)}"
    return schema.get("type", "anything")


def bounds(schema: Schema) -> str:
    """A schema's bounds in words."""
    every = [schema, *schema.get("anyOf", [])]
    said = [text.format(one[key]) for one in every for key, text in BOUNDS.items() if key in one]
    return ", ".join(dict.fromkeys(said))


def _example(schema: Schema) -> str:
    return json.dumps(schema["examples"][0]) if schema.get("examples") else ""
