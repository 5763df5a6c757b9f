"""Middleware of every request, the same for a single server and for an ingress."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import FastAPI

from models.tokenization.tokenizer import TokenizerError
from server.config import Settings
from server.http import errors
from server.http.body_limit import BodyLimit, ContentCoding
from server.http.middleware import AllowedHosts, ApiKeys, RateLimit, RequestId, RequestLog
from server.http.paths import Head, PlainPaths
from server.http.rate_limit import Rates

ROUTES = (
    *("GET /v1/models", "POST /v1/completions", "POST /v1/chat/completions"),
    *("POST /v1/images/generations", "POST /v1/score", "POST /v1/diffusion/trajectories"),
    *("POST /tokenize", "POST /detokenize"),
)
"""Routes that the answer to an unknown path lists."""


def install(
    app: FastAPI, settings: Settings, keyless: Collection[str], rejected: Callable[[], None]
) -> None:
    """Add all middleware and exception handlers to an application.

    They are added from the innermost outwards: a request refused by host or key costs nothing more.

    Args:
        app: the application.
        settings: its limits.
        keyless: paths that need no API key, besides those that never do.
        rejected: called for each request that is refused by the rate limit.
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
    app.add_middleware(ApiKeys, keys=settings.keys, keyless=keyless)
    app.add_middleware(AllowedHosts, hosts=settings.hosts)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestId)
    errors.install(app, ROUTES, {TokenizerError: "tokenizer"})
