"""Health, readiness, version and metrics."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response

from server.api.context import State
from server.api.schemas.responses.health import Health, Ready, Version
from server.api.schemas.responses.openapi import says
from server.http.described_route import DescribedRoute
from server.http.errors import ApiError

METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "description": "All metrics in Prometheus text format.",
    },
    **{status: said for status, said in says(Version, 401, 500).items() if status != 200},
}

router = APIRouter(tags=["status"], route_class=DescribedRoute)


@router.get("/health", summary="Liveness probe", response_model=None, responses=says(Health))
async def health() -> Health:
    """Returns 200 while the process is alive."""
    return {"status": "ok"}


@router.get("/ready", summary="Readiness probe", response_model=None, responses=says(Ready, 503))
async def ready(request: Request) -> Ready:
    """Returns 200 while all engines accept requests, else 503 with the reason."""
    for name, engine in State.of(request).engines.items():
        if engine.unready is not None:
            raise ApiError(503, f"{name}: {engine.unready}", code="not_ready", retry_after=1)
    return {"status": "ready"}


@router.get(
    "/version", summary="Server version", response_model=None, responses=says(Version, 401, 500)
)
async def build() -> Version:
    """The version of this server."""
    return {"version": version("xdlm-serve")}


@router.get("/metrics", summary="Prometheus metrics", responses=METRICS)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus text format."""
    body = State.of(request).engine.metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
