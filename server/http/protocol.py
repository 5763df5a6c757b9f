"""HTTP/1.1 on a connection, with deadlines and limits that middleware cannot enforce."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httptools
import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from server.http.errors import error_body
from server.http.framing import MAX_HEADERS, Framing, Refused
from server.http.outgoing import Answer, Flow, until_closed

log = structlog.get_logger()

HEAD_SECONDS = 10.0  # from the first byte, or from the connection, to the end of the headers
BODY_SECONDS = 30.0  # from there to the end of the body
STALL_SECONDS = 30.0  # that a client may leave a full buffer unread
LINGER_SECONDS, LINGER_BYTES = 2.0, 4 << 20  # what is sent on after a refusal is read so long
SEND_BUFFER = 128 << 10  # bytes; the kernel takes twice as many, and would take 4 MiB by itself
MAX_HELD = 64 << 10  # bytes of a next request that are taken before its turn


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline in every state in which the client has to do something,
    bounds of what it may send before an answer, and an end to clients that do not read.

    What is written waits in a buffer of 64 KiB and in the kernel's; the writer waits meanwhile. A
    request is not looked at before the one in front of it is answered. A refused connection is
    closed: nothing after the refusal is read as a request.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    stall_seconds = STALL_SECONDS
    linger_seconds = LINGER_SECONDS
    send_buffer = SEND_BUFFER
    parser: Any  # None once the connection is lost

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn would answer further connections in plain text and keep them open
        self.most, self.limit_concurrency = self.limit_concurrency, None
        self.since = self.loop.time()  # when it last became the client's turn
        self._framing = Framing()
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._over = False  # nothing that is sent from now on is a request
        self._discarded = 0  # bytes received after a refusal
        self._refusal: Refused | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self.flow = Flow(transport, lambda: len(self._framing) > MAX_HELD)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self._arm(self.head_seconds, self._late, "the headers took too long")
        if self.most is not None and len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._over = True
        self._disarm()
        self._unstall()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        if self._over:
            self._discard(len(data))
            return
        self._framing.feed(data)
        self._advance()

    def eof_received(self) -> None:
        """The client has closed its side: close once all output is sent."""
        self._over = True
        self._arm(self.stall_seconds, self.transport.abort)

    def _advance(self) -> None:
        """Feed the parser the bytes of the current request."""
        try:
            while not self._over and not self.transport.is_closing():
                fed = self._feed_body() if self._in_body else self._feed_head()
                if not fed:
                    break
        except Refused as refused:
            self._refuse(refused.status, refused.message)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            refused = self._refusal or Refused(400, "the request is not valid HTTP")
            self._refuse(refused.status, refused.message)
        if len(self._framing) > MAX_HELD:
            self.flow.pause_reading()
        elif not self._in_body:
            self.flow.resume_reading()

    def _feed_head(self) -> bool:
        """Feed the parser one complete head; whether there was one."""
        if not self._framing.starts():
            return False
        if self._answering:
            if self.cycle.response_started:
                self._framing.check()  # a running stream can only be closed
            return False
        if not self._in_head:
            self._in_head = True
            self._unset_keepalive_if_required()
            self._arm(self.head_seconds, self._late, "the headers took too long")
        head = self._framing.head()
        if head is None:
            return False
        self._in_body = True
        self.parser.feed_data(head)
        if self._in_head:
            raise Refused(400, "the request is not valid HTTP")
        if self._in_body:
            length = next((v for n, v in self.headers if n == b"content-length"), None)
            self._framing.begin_body(None if length is None else int(length))
        return True

    def _feed_body(self) -> bool:
        """Feed the parser a part of the body; whether there was one."""
        piece = self._framing.body()
        if piece:
            self.parser.feed_data(piece)
            if self._framing.ended == self._in_body:
                raise Refused(400, "the body does not end where its framing says")
        return bool(piece)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # The parser's callbacks ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins; the parser must see exactly one in each head."""
        if not self._in_head:
            raise Refused(400, "the request is not valid HTTP")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if len(self.headers) >= MAX_HEADERS:
            self._refusal = Refused(431, f"there are more than {MAX_HEADERS} headers")
            raise self._refusal
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """The headers are complete; the body follows."""
        codings = [v.lower() for n, v in self.headers if n == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or self.parser.get_http_version() == "1.0"):
            self._refusal = Refused(400, "Transfer-Encoding must be chunked, and HTTP be 1.1")
            raise self._refusal
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        super().on_headers_complete()
        self._in_head, self._discarded = False, 0
        self._arm(self.body_seconds, self._late, "the body took too long")

    def on_body(self, body: bytes) -> None:
        """A part of the body; discarded if the response is complete."""
        super().on_body(body)
        if not self._answering:
            self._discard(len(body))

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._disarm()
        self._in_body = False
        super().on_message_complete()

    # Answers -------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = Answer(self.transport, self.end, lambda: self._over)
        app = until_closed(cycle, app) if self.scope["http_version"] == "1.0" else app
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """A response is complete. If the request's body is still arriving, close after a delay:
        closing at once would lose the response.
        """
        super().on_response_complete()
        self.since = self.loop.time()
        if self._over:
            self._unset_keepalive_if_required()
        elif self._in_body:
            self._arm(self.linger_seconds, self.end)
        else:
            self.loop.call_soon(self._advance)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self.end()

    def end(self) -> None:
        """Close once all output is sent, or after a deadline."""
        if self._over or self.transport.is_closing():
            return
        if self._in_body:
            self._linger()
            return
        self._over = True
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._arm(self.stall_seconds, self.transport.abort)

    def _linger(self) -> None:
        """Close for writing and discard input for a while: else the response may be lost."""
        self._over = True
        self._framing.clear()
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._arm(self.linger_seconds, self.transport.abort)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    # Refusals ------------------------------------------------------------------------------------

    def _refuse(self, status: int, message: str, code: str = "bad_request") -> None:
        """Send an error response and close; if a response has begun already, only close."""
        self._disarm()
        self._unset_keepalive_if_required()
        log.warning("connection refused", status=status, reason=message)
        cycle = self.cycle
        if self._answering:
            if cycle.response_started:
                self._over = True
                self.transport.abort()
                return
            cycle.disconnected = True  # the route's response is not sent
            cycle.message_event.set()
        elif self._in_body and not self._in_head:
            self._linger()  # it has been answered
            return
        body = orjson.dumps(error_body(status, message, None, code))
        head = b"content-type: application/json\r\nx-content-type-options: nosniff\r\n"
        head += b"retry-after: 1\r\n" if status == 503 else b""
        head += b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self._linger()

    def _arm(self, seconds: float, late: Callable[..., None], *words: str) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, late, *words)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, message: str) -> None:
        self._refuse(408, message)

    # Too many connections ------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Close the connection that waited longest for its client, idle ones first, or this one."""
        others = (c for c in self.connections if isinstance(c, GuardedProtocol) and c is not self)
        waited_for = [c for c in others if c.is_waited_for]
        if waited_for:
            min(waited_for, key=lambda c: (not c.is_over, not c.is_idle, c.since)).shed()
        else:
            self.shed()

    @property
    def is_waited_for(self) -> bool:
        """Whether the connection waits for its client."""
        return self._over or self._in_body or not self._answering

    @property
    def is_over(self) -> bool:
        """Whether it is being closed."""
        return self._over

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        return self.timeout_keep_alive_task is not None

    def shed(self) -> None:
        """Close at once, to free its file descriptor."""
        if not self._over and not self.is_idle:
            self._refuse(503, "there are too many connections", "too_many_connections")
        self._over = True
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    # Slow readers --------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The send buffer is full: start the deadline for reading."""
        super().pause_writing()
        self._unstall()
        self._stall = self.loop.call_later(self.stall_seconds, self._stalled)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._unstall()
        super().resume_writing()

    def _unstall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _stalled(self) -> None:
        log.warning("a client does not read; its connection is closed")
        self.transport.abort()  # close() would wait for it
