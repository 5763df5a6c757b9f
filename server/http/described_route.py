"""Routes whose responses are described to FastAPI when the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute


class DescribedRoute(APIRoute):
    """A route without the schemas of its responses. All of them together take longer than most of
    the rest of the start, and the document alone needs them.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **declared: Any) -> None:
        """As ``APIRoute``."""
        super().__init__(path, endpoint, **{**declared, "responses": None})
        self._declared = declared

    def described(self) -> APIRoute:
        """The same with its responses, for the document alone."""
        return APIRoute(self.path, self.endpoint, **self._declared)
