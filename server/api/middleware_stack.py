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
    *("POST /v1/responses", "POST /v1/messages", "POST /v1/images/generations"),
    *(
        "POST /v1/score",
        "POST /v1/decisions",
        "POST /v1/diffusion/trajectories",
        "POST /tokenize",
        "POST /detokenize",
    ),
)
"""Routes that the answer to an unknown path lists."""

KEPT = "answers are not kept; POST /v1/diffusion/trajectories records runs"
ABSENT = {
    "/v1/embeddings": "these models give no embeddings",
    "/v1/rerank": "these models rank no documents; POST /v1/score bounds a text's likelihood",
    "/v1/moderations": "these models classify no texts",
    "/v1/audio": "these models read and write text and images only",
    "/v1/videos": "these models read and write text and images only",
    "/v1/realtime": "these models read and write text and images only",
    "/v1/images/edits": "images are made from a class alone",
    "/v1/images/variations": "images are made from a class alone",
    "/v1/responses": KEPT,
    "/v1/chat/completions": KEPT,
    "/v1/conversations": "conversations are not kept; send all messages",
    "/v1/messages/count_tokens": "POST /tokenize with messages counts tokens",
    "/v1/messages/batches": "there are no batch jobs; send requests side by side",
    "/v1/batches": "there are no batch jobs; send requests side by side",
    "/v1/complete": "use POST /v1/messages or POST /v1/completions",
    "/v1/edits": "use POST /v1/completions with suffix or infill",
    "/v1/engines": "use GET /v1/models",
    "/v1/files": "files are not stored",
    "/v1/uploads": "files are not stored",
    "/v1/vector_stores": "files are not stored",
    "/v1/containers": "files are not stored",
    "/v1/assistants": "use POST /v1/responses or POST /v1/chat/completions",
    "/v1/threads": "use POST /v1/responses or POST /v1/chat/completions",
    "/v1/fine_tuning": "models are not trained here",
    "/v1/evals": "POST /v1/score bounds a text's likelihood",
}
"""Routes of OpenAI's, Anthropic's and vLLM's APIs that are not here, and what is instead."""


def missing(path: str) -> str:
    """The message for a path that is no route."""
    parts = [part for part in path.split("/") if part]
    beginnings = ("/" + "/".join(parts[:n]) for n in range(len(parts), 0, -1))
    why = next((ABSENT[name] for name in beginnings if name in ABSENT), "")
    return f"no such route{why and ': '}{why}; the routes are {', '.join(ROUTES)}"


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
    errors.install(app, missing, {TokenizerError: "tokenizer"})
