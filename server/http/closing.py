"""How a connection of HTTP/1.1 ends: deadlines, refusals, clients that do not read."""

from __future__ import annotations

from typing import Any

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.http.errors import error_body
from server.http.framing import Framing
from server.http.timer import Timer

log = structlog.get_logger()

STALL_SECONDS = 30.0  # that a client may leave a full buffer unread
LINGER_SECONDS, LINGER_BYTES = 2.0, 4 << 20  # for which input after a refusal is read and dropped


class ClosingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to each connection that its client can read.

    A refused connection is closed: nothing after the refusal is read as a request. A subclass reads
    the requests.

    Attributes:
        since: time at which it last became the client's turn, by the loop's clock.
    """

    stall_seconds = STALL_SECONDS
    linger_seconds = LINGER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.since = self.loop.time()
        self._framing = Framing()
        self._deadline, self._stall = Timer(self.loop), Timer(self.loop)
        self._in_head = self._in_body = False
        self._over = False  # nothing that is sent from now on is a request
        self._discarded = 0  # bytes received after a refusal

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._over = True
        self._deadline.stop()
        self._stall.stop()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

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
            self._deadline.start(self.stall_seconds, self.transport.abort)

    def _linger(self) -> None:
        """Close for writing and discard input for a while: else the response may be lost."""
        self._over = True
        self._framing.clear()
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline.start(self.linger_seconds, self.transport.abort)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    def _refuse(self, status: int, message: str, code: str = "bad_request") -> None:
        """Send an error response and close; if a response has begun already, only close."""
        self._deadline.stop()
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

    def _late(self, message: str) -> None:
        self._refuse(408, message)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

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

    def pause_writing(self) -> None:
        """The send buffer is full: start the deadline for reading."""
        super().pause_writing()
        self._stall.start(self.stall_seconds, self._stalled)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._stall.stop()
        super().resume_writing()

    def _stalled(self) -> None:
        log.warning("a client does not read; its connection is closed")
        self.transport.abort()  # close() would wait for it
