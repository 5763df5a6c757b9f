"""HTTP/1.1 on a connection, with limits that middleware cannot set: it sees a request only once its
headers are complete, and never sees how slowly a client reads.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.http.errors import error_body

log = structlog.get_logger()

MAX_HEADERS = 100
MAX_HEAD = 32 << 10  # bytes of a request line and its headers
HEAD_SECONDS = 10.0  # from the first byte, or from the connection, to the end of the headers
BODY_SECONDS = 30.0  # from there to the end of the body
STALL_SECONDS = 30.0  # that a client may leave a full buffer unread
LINGER_SECONDS, LINGER_BYTES = 2.0, 4 << 20  # a body goes on so long after it was refused
SEND_BUFFER = 128 << 10  # bytes; the kernel takes twice as many, and would take 4 MiB by itself


class Refused(Exception):
    """Raised in the parser's callbacks to stop it; the answer has been chosen."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with deadlines for headers and bodies, bounds of the headers, and an end
    to clients that do not read.

    What is written waits in a buffer of 64 KiB and in the kernel's; the writer waits meanwhile. A
    refused connection is closed: nothing behind the refusal is read as a request.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    stall_seconds = STALL_SECONDS
    send_buffer = SEND_BUFFER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_size = 0  # bytes fed since the head began
        self._discarded = 0  # bytes of a body behind its answer
        self._refusal = 400, "the request is not valid HTTP"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is to say what it wants before long."""
        super().connection_made(transport)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self._arm(self.head_seconds, "the headers took too long")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers."""
        self._disarm()
        self._unstall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is being closed."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD and not self.transport.is_closing():
                self._refuse(431, f"the headers have more than {MAX_HEAD} bytes")

    # The parser's callbacks ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head, self._head_size = True, 0
        self._arm(self.head_seconds, "the headers took too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header."""
        if len(self.headers) >= MAX_HEADERS:
            self._refusal = 431, f"there are more than {MAX_HEADERS} headers"
            raise Refused
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is known; its body is to come."""
        self._in_head = False
        size = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
        if size > MAX_HEAD:
            self._refusal = 431, f"the headers have {size} bytes; the limit is {MAX_HEAD}"
            raise Refused
        self._discarded = 0
        self._arm(self.body_seconds, "the body took too long")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body; nobody wants it any more where the answer is complete."""
        super().on_body(body)
        if self._answered_early:
            self._discarded += len(body)
            if self._discarded > LINGER_BYTES:
                self._disarm()
                self.transport.close()

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete. Where its body is still coming, the client has a moment to notice:
        closing at once would take the answer from it.
        """
        super().on_response_complete()
        if self._answered_early:
            self._arm(LINGER_SECONDS, "the body goes on behind its answer")

    @property
    def _answered_early(self) -> bool:
        cycle = self.cycle
        unread = cycle is not None and not self._in_head and cycle.more_body
        return unread and cycle.response_complete

    # Refusals ------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up."""
        self._refuse(*self._refusal)

    def _refuse(self, status: int, message: str) -> None:
        """Answer, and close. Where an answer is under way already, close: the client would take
        this one for a part of it.
        """
        self._disarm()
        log.warning("connection refused", status=status, reason=message)
        cycle = self.cycle
        if self._answered_early:
            self.transport.close()
            return
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                self.transport.abort()
                return
            cycle.disconnected = True  # nobody will read what the route answers
            cycle.message_event.set()
        body = orjson.dumps(error_body(status, message, None, "bad_request"))
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
        head += str(len(body)).encode() + b"\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _arm(self, seconds: float, message: str) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._late, message)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, message: str) -> None:
        if not self.transport.is_closing():
            self._refuse(408, message)

    # Slow readers --------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The buffer is full: the client has a while to make room."""
        super().pause_writing()
        self._unstall()
        self._stall = self.loop.call_later(self.stall_seconds, self._stalled)

    def resume_writing(self) -> None:
        """There is room."""
        self._unstall()
        super().resume_writing()

    def _unstall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        log.warning("a client does not read; its connection is closed")
        self.transport.abort()  # close() would wait for it
