"""The HTTP application: middleware, routes and exception handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from server.api import middleware_stack
from server.api.context import State
from server.api.openapi import document
from server.api.routes import (
    chat_completions,
    completions,
    decisions,
    docs,
    health,
    image_generations,
    messages,
    models,
    page,
    responses,
    score,
    tokenize,
    trajectories,
    trajectory_pictures,
)
from server.config import ConfigError, Settings
from server.engine.engine import Engine
from server.http.tracing import Tracing, exporting
from server.trajectories.store import TrajectoryStore

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ROUTES = (
    health,
    models,
    completions,
    chat_completions,
    responses,
    messages,
    decisions,
    image_generations,
    trajectories,
    trajectory_pictures,
    score,
    tokenize,
)
OFFLOAD_THREADS = 2
"""Threads for work on long texts; few, so that the model keeps the CPU."""


def create_app(engines: Sequence[Engine], settings: Settings, id_prefix: str = "") -> FastAPI:
    """The application of engines, each with its own model, which its lifespan starts.

    Args:
        engines: the first is the default of requests.
        settings: of the server.
        id_prefix: up to 12 hexadecimal digits at the start of trajectory ids, from which a cluster
            finds the replica that holds them.
    """
    traces = _exporter(settings.trace_endpoint)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(OFFLOAD_THREADS, "xdlm-offload") as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            for engine in engines:
                engine.start()
                engine.watchdog.start()
            yield
            for engine in engines:
                engine.stop()
            await asyncio.to_thread(app.state.xdlm.constraints.close)
            if traces is not None:
                await asyncio.to_thread(traces.shutdown)

    app = FastAPI(
        title="xdlm-serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    kept = TrajectoryStore(settings.trajectory_store_mb << 20, settings.trajectory_store_seconds)
    app.state.xdlm = State.around(engines, settings, kept, id_prefix)
    files, metrics = page.assets(), engines[0].metrics
    middleware_stack.install(app, settings, files.keys(), lambda: metrics.failed("rate_limited"))
    if traces is not None:
        app.add_middleware(Tracing, tracer=traces.get_tracer("xdlm"))
    # not include_router, which analyses every route again at the first request
    for router in (*(module.router for module in ROUTES), page.router_of(files)):
        app.router.routes.extend(router.routes)
    if settings.docs:
        app.include_router(docs.router_of(document(app, app.state.xdlm)))
    return app


def _exporter(endpoint: str) -> TracerProvider | None:
    """Sends traces to a collector; None without an endpoint.

    Raises:
        ConfigError: the packages that send traces are not installed.
    """
    if not endpoint:
        return None
    try:
        return exporting(endpoint)
    except ImportError as error:
        raise ConfigError(f"trace_endpoint: {error}") from None
