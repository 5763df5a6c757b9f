"""Errors in Anthropic's shape: ``{"type": "error", "error": {"type", "message"}}``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.http.json_response import Answer

ROUTE = "/v1/messages"
"""The route whose errors have this shape, and those below it."""

AnthropicErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "overloaded_error",
    "api_error",
]
TYPES: dict[int, AnthropicErrorType] = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Types of errors by status, where it alone decides."""


class AnthropicProblem(Answer):
    """Description of an error, with this server's ``param`` and ``code``."""

    type: AnthropicErrorType
    message: str
    param: Annotated[str | None, Field(description="the field that caused the error")]
    code: Annotated[str | None, Field(description="machine-readable, as on other routes")]


class AnthropicError(Answer):
    """An error response of /v1/messages."""

    type: Literal["error"]
    error: AnthropicProblem
    request_id: str | None


def anthropic_error(
    status: int, message: str, param: str | None, code: str | None, request_id: str | None
) -> AnthropicError:
    """Anthropic's error object for a status."""
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": message, "param": param, "code": code},
        "request_id": request_id,
    }


def speaks_anthropic(path: str) -> bool:
    """Whether errors of a path have this shape; surplus slashes do not count."""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    return plain == ROUTE or plain.startswith(f"{ROUTE}/")
