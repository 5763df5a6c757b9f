"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from server.http.anthropic import anthropic_error, speaks_anthropic
from server.http.json_response import Answer, JsonResponse

log = structlog.get_logger()

OUTSIDE = frozenset({"body", "query", "path", "str", "int"})
"""Parts of pydantic's error locations that are not fields: sources and union members."""


ErrorType = Literal[
    "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
]
TYPES: dict[int, ErrorType] = {401: "authentication_error", 429: "rate_limit_error"}
"""Types of errors by status, where it alone decides."""


class Problem(Answer):
    """Description of an error."""

    message: Annotated[
        str,
        Field(description="human-readable; for limits it names the requested value and the limit"),
    ]
    type: ErrorType
    param: Annotated[str | None, Field(description="the field that caused the error")]
    code: Annotated[
        str | None, Field(description="machine-readable: limit_exceeded, queue_full, …")
    ]


class Error(Answer):
    """An error response."""

    error: Problem


class ApiError(Exception):
    """An error response. ``param`` names the field that caused it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def response(self, scope: Scope, headers: Mapping[str, str] | None = None) -> JsonResponse:
        """The response to a request, in the shape of its route's API."""
        more = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        told = (self.status, self.message, self.param, self.code)
        if speaks_anthropic(scope["path"]):
            body: object = anthropic_error(*told, scope.get("request_id"))
        else:
            body = error_body(*told)
        return JsonResponse(body, self.status, {**more, **(headers or {})})


def error_body(status: int, message: str, param: str | None, code: str | None) -> Error:
    """OpenAI's error object for a status."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def install(
    app: FastAPI, missing: Callable[[str], str], client_errors: Mapping[type[Exception], str]
) -> None:
    """Map every exception to a response in the shape of its route's API.

    Args:
        app: the application.
        missing: the message for an unknown path.
        client_errors: exceptions that are answered 400, with the ``code`` of each.
    """

    async def api_error(request: Request, error: Exception) -> JsonResponse:
        assert isinstance(error, ApiError)
        return error.response(request.scope)

    async def client_error(request: Request, error: Exception) -> JsonResponse:
        code = next(c for kind, c in client_errors.items() if isinstance(error, kind))
        return ApiError(400, str(error), code=code).response(request.scope)

    async def http_error(request: Request, error: Exception) -> JsonResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = missing(request.scope["path"])
        return ApiError(error.status_code, message).response(request.scope, error.headers)

    async def unreadable(request: Request, error: Exception) -> JsonResponse:
        assert isinstance(error, RequestValidationError)
        return _first(error.errors()).response(request.scope)

    async def internal(request: Request, error: Exception) -> JsonResponse:
        id_ = request.scope.get("request_id", "")
        log.error("unhandled", request_id=id_, exc_info=error)
        told = ApiError(500, f"internal error; request id {id_}", code="internal")
        headers = {"X-Request-Id": id_, "X-Content-Type-Options": "nosniff"}
        return told.response(request.scope, headers)

    app.add_exception_handler(ApiError, api_error)
    for kind in client_errors:
        app.add_exception_handler(kind, client_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(Exception, internal)


def invalid(error: ValidationError) -> ApiError:
    """A 400 response for the first validation error of a body."""
    return _first(error.errors(include_url=False, include_input=False))


def _first(faults: Sequence[Any]) -> ApiError:
    first = faults[0]
    path = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    path = [part for part in path if part not in OUTSIDE]
    if "field" in first.get("ctx", {}):
        path.append(first["ctx"]["field"])
    param = path[0] if path and isinstance(path[0], str) else None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown field {str(first['loc'][-1])[:64]!r}"
    words = re.findall(r"\w+", message)  # ``n`` is no word of "Input should be …"
    if len(path) > 1 or (param is not None and param not in words):
        message = f"{_written(path)}: {message}"
    return ApiError(400, message, param=param, code="invalid_value")


def _written(path: Sequence[str | int]) -> str:
    """A field's path in a body, such as ``messages[2].content``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in path)
    return "".join(parts).removeprefix(".")
