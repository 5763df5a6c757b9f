"""JSON responses, serialised by orjson."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that JSON allows unescaped and some line readers split at, with their JSON escapes."""


def one_line(text: str) -> str:
    """A JSON text with every character escaped at which some reader would end a line."""
    if not text.isascii():
        for end, escape in LINE_ENDS.items():
            text = text.replace(end, escape)
    return text


class JsonResponse(Response):
    """A response with a JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise the body."""
        return orjson.dumps(content)
