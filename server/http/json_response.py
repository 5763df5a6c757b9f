"""JSON responses, serialised by orjson, and the base of their types."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import with_config
from starlette.responses import Response
from typing_extensions import TypedDict

LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that JSON allows unescaped and some line readers split at, with their JSON escapes."""


def one_line(text: str) -> str:
    """A JSON text with every character escaped at which some reader would end a line."""
    if not text.isascii():
        for end, escape in LINE_ENDS.items():
            text = text.replace(end, escape)
    return text


@with_config(extra="forbid")
class Answer(TypedDict):
    """Base of the JSON objects of answers; no further fields are allowed.

    Each is declared once: code builds it as a dict, which the type checker checks, and the OpenAPI
    document is generated from it.
    """


class JsonResponse(Response):
    """A response with a JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise the body."""
        return orjson.dumps(content)
