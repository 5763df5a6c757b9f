"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from models.tokenization.tokenizer import TokenizerError
from server.http.wire import Json

log = structlog.get_logger()


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
        body = error_body(error.status_code, str(error.detail), None, None)
        return Json(body, error.status_code, error.headers)

    async def invalid(_: Request, error: Exception) -> Json:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = path[0] if path and not path[0].isdigit() else None
        param = first.get("ctx", {}).get("field", param)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"{param}: unknown field {path[-1][:64]!r}"
        elif param is not None and param not in message:
            message = f"{param}: {message}"
        return Json(error_body(400, message, param, "invalid_value"), 400)

    async def internal(request: Request, error: Exception) -> Json:
        id_ = request.scope.get("request_id", "")
        log.error("unhandled", request_id=id_, exc_info=error)
        body = error_body(500, f"internal error; request id {id_}", None, "internal")
        return Json(body, 500, {"X-Request-Id": id_, "X-Content-Type-Options": "nosniff"})

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(TokenizerError, tokenizer_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, internal)
