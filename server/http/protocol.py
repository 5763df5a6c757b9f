"""HTTP/1.1 on a connection, with deadlines and limits that middleware cannot enforce."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.http.closing import ClosingProtocol
from server.http.framing import MAX_HEADERS, Refused
from server.http.outgoing import Flow, ResponseTransport, until_closed

HEAD_SECONDS = 10.0  # from the first byte, or from the connection, to the end of the headers
BODY_SECONDS = 30.0  # from there to the end of the body
SEND_BUFFER = 128 << 10  # bytes; the kernel takes twice as many, and would take 4 MiB by itself
MAX_HELD = 64 << 10  # bytes of a next request that are taken before its turn


class GuardedProtocol(ClosingProtocol):
    """uvicorn's protocol with a deadline in every state in which the client has to do something,
    bounds of the input before a response, and an end to clients that do not read.

    Output waits in a buffer of 64 KiB and in the kernel's; the writer waits meanwhile. A request is
    parsed only after the one before it is answered.
    """

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    send_buffer = SEND_BUFFER
    parser: Any  # None once the connection is lost

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn would answer further connections in plain text and keep them open
        self.most, self.limit_concurrency = self.limit_concurrency, None
        self._refusal: Refused | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self.flow = Flow(transport, lambda: len(self._framing) > MAX_HELD)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self._deadline.start(self.head_seconds, self._late, "the headers took too long")
        if self.most is not None and len(self.connections) > self.most:
            self._make_room()

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
        self._deadline.start(self.stall_seconds, self.transport.abort)

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
            self._deadline.start(self.head_seconds, self._late, "the headers took too long")
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
        self._deadline.start(self.body_seconds, self._late, "the body took too long")

    def on_body(self, body: bytes) -> None:
        """A part of the body; discarded if the response is complete."""
        super().on_body(body)
        if not self._answering:
            self._discard(len(body))

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._deadline.stop()
        self._in_body = False
        super().on_message_complete()

    # Answers -------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = ResponseTransport(self.transport, self.end, lambda: self._over)
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
            self._deadline.start(self.linger_seconds, self.end)
        else:
            self.loop.call_soon(self._advance)

    # Too many connections ------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Close the connection that waited longest for its client, idle ones first, or this one."""
        others = (c for c in self.connections if isinstance(c, GuardedProtocol) and c is not self)
        waited_for = [c for c in others if c.is_waited_for]
        if waited_for:
            min(waited_for, key=lambda c: (not c.is_over, not c.is_idle, c.since)).shed()
        else:
            self.shed()
