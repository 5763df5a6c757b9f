"""How paths and methods that a client writes are brought to those that the routes have."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLASHES = re.compile(r"/{2,}")
FORGIVING = re.compile(r"/+(?:v1|health|ready)(?:/.*)?", re.DOTALL)
"""Paths in which slashes too many are dropped. ``/metrics`` and the like stay as they are: a proxy
may refuse such a path by its exact spelling."""


class PlainPaths:
    """Answers a path of the API with slashes too many, as clients make from a base URL that ends in
    one, as the plain one. There is no redirect, which would have to know the scheme of a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and FORGIVING.fullmatch(scope["path"]):
            scope["path"] = SLASHES.sub("/", scope["path"]).rstrip("/")
        await self.app(scope, receive, send)


class Head:
    """Answers HEAD with the headers of GET. What would have followed is not made."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headers_alone(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive, headers_alone)
        finally:
            scope["route"] = inner.get("route")
