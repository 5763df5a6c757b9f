"""What every request passes before a route sees it, of a single server and of a cluster's front."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import FastAPI

from server.config import Settings
from server.http import errors
from server.http.body_limit import BodyLimit, ContentCoding
from server.http.middleware import (
    AllowedHosts,
    ApiKeys,
    RateLimit,
    RequestId,
    RequestLog,
)
from server.http.paths import Head, PlainPaths
from server.http.rate_limit import Rates


def install(
    app: FastAPI, settings: Settings, free: Collection[str], rejected: Callable[[], None]
) -> None:
    """Add them, from the innermost outwards: whoever is refused by host or key costs no more.

    Args:
        app: of the server.
        settings: its limits.
        free: paths that need no key, besides those that never do.
        rejected: called for each request that is refused for its rate.
    """
    app.router.redirect_slashes = False
    app.add_middleware(Head)
    app.add_middleware(PlainPaths)
    app.add_middleware(
        BodyLimit, limit=settings.max_body_mb << 20, total=settings.max_bodies_mb << 20
    )
    app.add_middleware(ContentCoding)
    rates = Rates(settings.rate_per_minute, settings.key_rate_per_minute)
    app.add_middleware(RateLimit, rates=rates, rejected=rejected)
    app.add_middleware(ApiKeys, keys=settings.keys, free=free)
    app.add_middleware(AllowedHosts, hosts=settings.hosts)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestId)
    errors.install(app)
