"""What happens to every request before its route sees it. Plain ASGI: streams pass through."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError
from server.wire import Json

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Gives every response an ``X-Request-Id``: the client's own where it is harmless, or a new
    one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id_ = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = id_

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = id_
            await send(message)

        await self.app(scope, receive, with_id)


class BodyLimit:
    """Answers 413 to bodies that are too large: by their declared length before anything is read,
    else as soon as the stream has grown past the limit. What follows is never kept.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """``limit`` is in bytes."""
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and (len(declared) > 20 or int(declared) > self.limit):
            error = self._refusal(declared[:20])
            await Json(error.body(), error.status)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise self._refusal(f"at least {read}")
            return message

        await self.app(scope, counted, send)

    def _refusal(self, size: str) -> ApiError:
        message = f"the body has {size} bytes; the limit is {self.limit}"
        return ApiError(413, message, code="body_too_large")
