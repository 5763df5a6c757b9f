"""Limits of request bodies: of each one, and of all in memory together."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError

CODED = frozenset({"POST", "PUT", "PATCH"})


class Held:
    """The part of a request body that is in memory.

    Attributes:
        size: in bytes.
        complete: whether the body has been read to its end.
        given_up: whether the request is refused to make room for others.
    """

    def __init__(self) -> None:
        self.size, self.complete, self.given_up = 0, False, False
        self.waiting: asyncio.Timeout | None = None

    def give_up(self) -> None:
        """Refuse the request; interrupts a wait for the rest of its body."""
        self.given_up = True
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())


class BodyLimit:
    """Answers 413 to bodies above a limit: by Content-Length, else once the limit has been read.

    If all bodies together exceed the total, the largest incomplete one is answered 503, or the
    newest if all are complete. A body counts until its request is over.
    """

    def __init__(self, app: ASGIApp, limit: int, total: int) -> None:
        """``limit`` of each and ``total`` of all are in bytes."""
        self.app, self.limit, self.total = app, limit, max(limit, total)
        self._held: set[Held] = set()
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and (len(declared) > 20 or int(declared) > self.limit):
            error = self._too_large(declared[:20])
            await error.response(scope)(scope, receive, send)
            return
        held, read = Held(), 0

        async def counted() -> Message:
            nonlocal read
            if held.complete:
                return await receive()
            if held.given_up:
                raise self._full()
            try:
                async with asyncio.timeout(None) as held.waiting:
                    message = await receive()
            except TimeoutError:
                raise self._full() from None
            finally:
                held.waiting = None
            size = len(message.get("body", b""))
            read += size
            if read > self.limit:
                raise self._too_large(f"at least {read}")
            held.complete = not message.get("more_body")
            self._grow(held, size)
            return message

        self._held.add(held)
        try:
            await self.app(scope, counted, send)
        finally:
            self._held.discard(held)
            self._size -= held.size

    def _grow(self, held: Held, size: int) -> None:
        """Count bytes of a body; refuse the largest incomplete body if the total is exceeded.

        Raises:
            ApiError: 503 if this body is the one refused.
        """
        held.size += size
        self._size += size
        if not size or self._size <= self.total:
            return
        begun = [other for other in self._held if not other.complete and other.size]
        largest = max(begun, key=lambda other: other.size, default=held)
        self._size -= largest.size
        largest.size = 0
        if largest is held:
            raise self._full()
        largest.give_up()

    def _full(self) -> ApiError:
        message = f"all bodies together have more than {self.total} bytes; try again"
        return ApiError(503, message, code="bodies_full", retry_after=1)

    def _too_large(self, size: str) -> ApiError:
        message = f"the body has {size} bytes; the limit is {self.limit}"
        return ApiError(413, message, code="body_too_large")


class ContentCoding:
    """Answers 415 to compressed bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and scope["method"] in CODED:
            given = ",".join(Headers(scope=scope).getlist("content-encoding"))
            if any(coding.strip().lower() not in ("", "identity") for coding in given.split(",")):
                message = "Content-Encoding: send the body uncompressed; no coding is supported"
                error = ApiError(415, message, param="Content-Encoding", code="unsupported_coding")
                answer = error.response(scope, {"Accept-Encoding": "identity"})
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)
