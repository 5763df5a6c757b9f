"""Health, readiness, version and metrics."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request, Response

from server.errors import ApiError
from server.state import State

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """The engine takes requests; 503 while it does not."""
    if not State.of(request).engine.ready:
        raise ApiError(503, "not ready", code="not_ready", retry_after=1)
    return {"status": "ready"}


@router.get("/version")
async def build() -> dict[str, str]:
    """The version of this server."""
    return {"version": version("xdlm-serve")}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    body = State.of(request).engine.metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
