"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from models.tokenization.tokenizer import TokenizerError
from server.http.wire import Json

log = structlog.get_logger()

ROUTES = (
    *("GET /v1/models", "POST /v1/completions", "POST /v1/chat/completions"),
    *("POST /v1/images/generations", "POST /v1/score", "POST /v1/diffusion/trajectories"),
    *("POST /tokenize", "POST /detokenize"),
)
"""Told to clients that ask for another."""

OUTSIDE = frozenset({"body", "query", "path", "str", "int"})
"""Parts of pydantic's locations that name no field: where it is sent, and members of unions."""


class ApiError(Exception):
    """An answer other than success. ``param`` names the field that is to blame."""

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

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return error_body(self.status, self.message, self.param, self.code)


def error_body(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    """OpenAI's error object for a status."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def install(app: FastAPI) -> None:
    """Map every exception to an answer in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> Json:
        assert isinstance(error, ApiError)
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return Json(error.body(), error.status, headers)

    async def tokenizer_error(_: Request, error: Exception) -> Json:
        return Json(error_body(400, str(error), None, "tokenizer"), 400)

    async def http_error(_: Request, error: Exception) -> Json:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is no such route; those for clients are {', '.join(ROUTES)}"
        body = error_body(error.status_code, message, None, None)
        return Json(body, error.status_code, error.headers)

    async def unreadable(_: Request, error: Exception) -> Json:
        assert isinstance(error, RequestValidationError)
        return Json(_first(error.errors()).body(), 400)

    async def internal(request: Request, error: Exception) -> Json:
        id_ = request.scope.get("request_id", "")
        log.error("unhandled", request_id=id_, exc_info=error)
        body = error_body(500, f"internal error; request id {id_}", None, "internal")
        return Json(body, 500, {"X-Request-Id": id_, "X-Content-Type-Options": "nosniff"})

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(TokenizerError, tokenizer_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(Exception, internal)


def invalid(error: ValidationError) -> ApiError:
    """The refusal of a body: its first fault, and where in the body it is."""
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
    if len(path) > 1 or (param is not None and param not in message):
        message = f"{_written(path)}: {message}"
    return ApiError(400, message, param=param, code="invalid_value")


def _written(path: Sequence[str | int]) -> str:
    """As it would be written in a program: ``messages[2].content``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in path)
    return "".join(parts).removeprefix(".")
