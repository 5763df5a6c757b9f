"""Flow control and transport of responses for uvicorn's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Flow(FlowControl):
    """Flow control that stops reading from a client that has sent too much ahead of its turn."""

    def __init__(self, transport: asyncio.Transport, enough: Callable[[], bool]) -> None:
        """``enough`` returns whether reading stays paused."""
        super().__init__(transport)
        self._enough = enough

    def resume_reading(self) -> None:
        """Resume reading, unless ``enough`` is true."""
        if not self._enough():
            super().resume_reading()


class ResponseTransport(asyncio.Transport):
    """The transport of one response. Closing calls ``end``, which lets the client read it first."""

    def __init__(
        self, transport: asyncio.Transport, end: Callable[[], None], over: Callable[[], bool]
    ) -> None:
        """``over`` returns whether the connection is being closed."""
        super().__init__()
        self._transport, self._end, self._over = transport, end, over

    def write(self, data: Any) -> None:
        """Send a part of the response, unless the connection is being closed."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close after the response."""
        self._end()

    def is_closing(self) -> bool:
        """Whether the connection is closing or closed."""
        return self._over() or self._transport.is_closing()


def until_closed(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """Wraps an application for HTTP/1.0: responses of unknown length end with the connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        declared = False

        async def sent(message: Message) -> None:
            nonlocal declared
            if message["type"] == "http.response.start":
                declared = any(name.lower() == b"content-length" for name, _ in message["headers"])
                cycle.chunked_encoding = None if declared else False
            elif not declared:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, sent)

    return answer
