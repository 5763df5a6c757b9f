"""A request as it goes to a replica, and an answer as it comes back."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

TRAJECTORY = re.compile(r"traj-([0-9a-f]{4})([0-9a-f]{8})[0-9a-f]{24}")
AHEAD = 64  # messages of an answer that may wait to be sent on

Start = tuple[int, list[tuple[bytes, bytes]]]


def model_tag(model: str) -> str:
    """Four hexadecimal digits."""
    return hashlib.sha256(model.encode()).hexdigest()[:4]


def replica_tag(unique_id: str) -> str:
    """Eight hexadecimal digits; they follow the model's tag in a replica's trajectory ids."""
    return hashlib.sha256(unique_id.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ForwardedRequest:
    """A request.

    Attributes:
        method, path, query, headers, body: of HTTP.
        client: address and port.
        owner_tag: tag of the replica that holds the trajectory; empty if any will do.
        refused: tags of the replicas that refused it.
    """

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    client: tuple[str, int] | None = None
    owner_tag: str = ""
    refused: frozenset[str] = frozenset()

    @property
    def scope(self) -> dict[str, Any]:
        """As an ASGI application takes it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": None,
            "state": {},
        }


async def answered(app: ASGIApp, request: ForwardedRequest) -> AsyncGenerator[Start | bytes]:
    """An application's answer: status and headers, then the body as it comes. Closing it
    reports a disconnected client.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue(AHEAD)
    gone = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": request.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(request.scope, receive, messages.put)
        finally:
            await messages.put(None)

    running = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                yield message["status"], list(message.get("headers", ()))
            elif message.get("body"):
                yield message["body"]
        await running
    finally:
        gone.set()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
