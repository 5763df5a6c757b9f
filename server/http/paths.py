"""Middleware that normalises paths and answers HEAD."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLASHES = re.compile(r"/{2,}")
FORGIVING = re.compile(r"/+(?:v1|health|ready)(?:/.*)?", re.DOTALL)
"""Paths whose surplus slashes are removed. Others, such as ``/metrics``, stay exact: a proxy may
block them by their spelling.
"""

NAMED = re.compile(r"/v1/models/.", re.DOTALL)
"""Paths that end in a model's name, which is taken as it is."""


class PlainPaths:
    """Removes one slash at the end and doubled ones inside of API paths, which clients build from
    base URLs that end in a slash.

    A redirect would need to know the scheme of a proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http" and FORGIVING.fullmatch(scope["path"]):
            path = SLASHES.sub("/", scope["path"])
            named = NAMED.match(path) or scope["path"].endswith("//")
            scope["path"] = path if named else path.removesuffix("/")
        await self.app(scope, receive, send)


class Head:
    """Answers HEAD with the headers of GET, without producing a body."""

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
