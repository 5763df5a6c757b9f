"""How answers are written: JSON by orjson."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that JSON may hold raw, where some readers end a line; and how it spells them."""


def one_line(text: str) -> str:
    """A JSON text without line breaks, as all readers of lines see it."""
    if not text.isascii():
        for end, spelt in LINE_ENDS.items():
            text = text.replace(end, spelt)
    return text


class Json(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise the body."""
        return orjson.dumps(content)
