"""ASGI middleware of every request: ids, logs, hosts, API keys and rate limits."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Iterable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.api_keys import Keys, digest_of, presented
from server.http.errors import ApiError
from server.http.rate_limit import Rates

log = structlog.get_logger()

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
NOT_LOGGED = frozenset({"/health", "/ready", "/metrics"})
NEEDS_NO_KEY = frozenset({"/health", "/ready"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestId:
    """Adds ``X-Request-Id`` to every response, the client's if it is well-formed or a new one, and
    ``X-Content-Type-Options: nosniff``.
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
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = id_
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, with_id)


class RequestLog:
    """Logs every request when it is over: method, route, status, size and outcome.

    The log has no text of a client except a well-formed ``X-Request-Id``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http" or scope["path"] in NOT_LOGGED:
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status, sent, end = 500, 0, "error"

        async def received() -> Message:
            nonlocal end
            message = await receive()
            if message["type"] == "http.disconnect" and end != "finished":
                end = "client gone"
            return message

        async def counted(message: Message) -> None:
            nonlocal status, sent, end
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
                if not message.get("more_body") and end == "error":
                    end = "finished"
            await send(message)

        try:
            await self.app(scope, received, counted)
        finally:
            # set by streams that fail after their headers
            if failed := scope.get("state", {}).get("failed"):
                end = "failed"
            log.info(
                "request",
                request_id=scope["request_id"],
                method=scope["method"] if scope["method"] in METHODS else "other",
                route=getattr(scope.get("route"), "path", None),
                status=status,
                seconds=round(time.monotonic() - began, 6),
                bytes=sent,
                end=end,
                **({"code": failed} if failed else {}),
            )


class AllowedHosts:
    """Answers 400 to requests whose ``Host`` is not an allowed name, against DNS rebinding.

    HTTP/1.0 requests, which browsers do not send, may lack the header if all names are allowed.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """``hosts`` are names without ports; empty allows all well-formed ones."""
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and not self._allows(scope):
            error = ApiError(
                400, "the Host header is not an allowed host of this server", code="bad_host"
            )
            await error.response(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = Headers(scope=scope).getlist("host")
        if not given and not self.hosts and scope["http_version"] == "1.0":
            return True
        found = HOST.fullmatch(given[0]) if len(given) == 1 else None
        return found is not None and (not self.hosts or found[1].lower() in self.hosts)


class ApiKeys:
    """Answers 401 to requests without a valid API key, before their body is read.

    The key of accepted requests is available to routes by ``owner_of``.
    """

    def __init__(self, app: ASGIApp, keys: Keys, keyless: Iterable[str] = ()) -> None:
        """Requests to the paths ``keyless`` need no key; without ``keys``, none does."""
        self.app, self.keys, self.keyless = app, keys, NEEDS_NO_KEY.union(keyless)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and self.keys and scope["path"] not in self.keyless:
            given = presented(Headers(scope=scope))
            if given is None or not self.keys.accept(given):
                words = "is missing" if given is None else "is not one of this server's"
                error = ApiError(
                    401, f"the API key {words} (Authorization: Bearer …)", code="invalid_api_key"
                )
                answer = error.response(scope, {"WWW-Authenticate": "Bearer"})
                await answer(scope, receive, send)
                return
            scope["owner"] = digest_of(given)
        await self.app(scope, receive, send)


class RateLimit:
    """Answers 429 to POST requests above the rate limits of their key or of the server."""

    def __init__(self, app: ASGIApp, rates: Rates, rejected: Callable[[], None]) -> None:
        """``rejected`` is called for each refused request."""
        self.app, self.rates, self.rejected = app, rates, rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and scope["method"] == "POST":
            key = presented(Headers(scope=scope)) or ""
            if wait := self.rates.wait(digest_of(key)):
                self.rejected()
                error = ApiError(
                    429, "too many requests", code="rate_limited", retry_after=math.ceil(wait)
                )
                await error.response(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)
