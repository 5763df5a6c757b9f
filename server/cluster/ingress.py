"""The ingress: checks keys and sizes and sets request ids as a single server does; replicas answer
everything else.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Response
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import logs
from server.api import middleware_stack
from server.api.routes import page
from server.cluster.metrics import merged
from server.cluster.proxy import ReplicaProxy
from server.config import Settings
from server.http.errors import ApiError

ALL_SECONDS = 5.0  # in which all replicas have to answer what is asked of all


class Ingress:
    """The deployment that Ray Serve runs as the ingress."""

    def __init__(self, settings: Settings, replicas: Mapping[str, DeploymentHandle[Any]]) -> None:
        """Handles by the name of the model; the first is the one that requests get."""
        logs.configure()
        self._settings, self._replicas = settings, replicas

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve, whose proxy writes the ``X-Request-Id`` into answers itself: the one
        that it has given the request, or the client's.
        """
        app = create_ingress(self._replicas, self._settings)

        async def without_id(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start":
                    del MutableHeaders(scope=message)["X-Request-Id"]
                await send(message)

            await app(scope, receive, sent)

        return without_id


def create_ingress(replicas: Mapping[str, DeploymentHandle[Any]], settings: Settings) -> FastAPI:
    """The application that clients speak to; see ``Ingress``."""
    app = FastAPI(title="xdlm-serve", docs_url=None, redoc_url=None, openapi_url=None)
    files = page.assets()
    middleware_stack.install(app, settings, files.keys(), _not_counted)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        for handle in replicas.values():
            if True not in await _of_all(handle, "ready"):
                raise ApiError(503, "not ready", code="not_ready", retry_after=1)
        return {"status": "ready"}

    @app.get("/version")
    async def build() -> dict[str, str]:
        return {"version": version("xdlm-serve")}

    @app.get("/metrics")
    async def metrics() -> Response:
        told = [await _of_all(handle, "metrics") for handle in replicas.values()]
        body = merged([one for of_model in told for one in of_model])
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    app.include_router(page.router_of(files))
    app.mount("/", ReplicaProxy(replicas))
    return app


def _not_counted() -> None:
    """Rate limits at the ingress are logged, not counted: metrics are those of replicas."""


async def _of_all(handle: DeploymentHandle[Any], method: str) -> list[Any]:
    """Results of a method from the replicas that answer in time; there may be none."""
    try:
        told = await handle.broadcast(method).results_async(
            timeout_s=ALL_SECONDS, return_exceptions=True
        )
    except (TimeoutError, RayServeException):
        return []
    return [one for one in told if not isinstance(one, BaseException)]
