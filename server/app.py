"""The HTTP application: middleware, routes, and the map from exceptions to answers."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import errors
from server.config import Settings
from server.engine import Engine
from server.routes import chat, completions, models, score, status, tokens, trajectories
from server.state import State
from server.trajectories import Trajectories

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


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """The application around an engine that has not been started yet."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()

    app = FastAPI(
        title="xdlm-serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    kept = Trajectories(settings.trajectory_store_mb << 20, settings.trajectory_store_seconds)
    app.state.xdlm = State(engine, settings, kept)
    app.add_middleware(RequestId)
    errors.install(app)
    for routes in (status, models, completions, chat, trajectories, score, tokens):
        app.include_router(routes.router)
    return app
