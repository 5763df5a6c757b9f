"""A recording as a response: server-sent events, lines of JSON, or one JSON document."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import orjson
from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.config import Settings
from server.http.errors import ApiError
from server.http.json_response import one_line
from server.http.negotiation import preferred
from server.http.sse import EventStream
from server.trajectories.recording import Record, Recording

SSE, LINES, DOCUMENT = "text/event-stream", "application/x-ndjson", "application/json"
MAX_FOLLOWERS = 32
"""Clients that read one recording; each holds a record or two, and what the sockets buffer."""
HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}


def wanted_form(request: Request) -> str:
    """The media type that the client prefers.

    Raises:
        ApiError: 406 if none is available.
    """
    forms = (SSE, LINES, DOCUMENT)
    form = preferred(",".join(request.headers.getlist("accept")), forms)
    if form is None:
        message = f"Accept must allow one of {', '.join(forms)}"
        raise ApiError(406, message, param="Accept", code="not_acceptable")
    return form


class Followed(Response):
    """A response with a recording from record ``start`` on, in one of three media types.

    The client counts as a follower until it disconnects.
    """

    def __init__(self, recording: Recording, start: int, form: str, settings: Settings) -> None:
        """Prepare the response."""
        super().__init__()
        self._recording = recording
        if form == SSE:
            self._response: Response = EventStream(
                _sse(recording, start),
                HEADERS,
                ping_seconds=settings.ping_seconds,
                grace_seconds=settings.shutdown_seconds,
            )
        else:
            write = _lines if form == LINES else _document
            self._response = StreamingResponse(write(recording, start), 200, HEADERS, form)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point.

        Raises:
            ApiError: 429 if too many clients read it.
        """
        if self._recording.followers >= MAX_FOLLOWERS:
            followers = self._recording.followers
            message = f"{followers} clients read this trajectory; the limit is {MAX_FOLLOWERS}"
            raise ApiError(429, message, param="id", code="too_many_readers", retry_after=1)
        with self._recording.followed():
            await self._response(scope, receive, send)
        if self._recording.failed is not None:  # for the log
            scope.setdefault("state", {})["failed"] = self._recording.failed


def event_id(recording: Recording, n: int) -> str:
    """The id of a recording's n-th event; it contains the recording's id."""
    return f"{recording.id}:{n}"


async def _sse(recording: Recording, start: int) -> AsyncGenerator[dict[str, str]]:
    async for n, record in recording.follow(start):
        yield {
            "id": event_id(recording, n),
            "event": record.name,
            "data": record.data.decode(),
        }


async def _lines(recording: Recording, start: int) -> AsyncIterator[bytes]:
    async for n, record in recording.follow(start):
        yield one_line(_object(recording, n, record).decode()).encode() + b"\n"


async def _document(recording: Recording, start: int) -> AsyncIterator[bytes]:
    """One JSON document, written record by record."""
    yield b'{"id":' + orjson.dumps(recording.id) + b',"events":['
    between = b""
    async for n, record in recording.follow(start):
        yield between + _object(recording, n, record)
        between = b","
    yield b"]}"


def _object(recording: Recording, n: int, record: Record) -> bytes:
    data = orjson.Fragment(record.data)
    return orjson.dumps({"event": record.name, "id": event_id(recording, n), "data": data})
