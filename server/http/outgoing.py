"""What uvicorn's protocol writes answers to, and how it is held back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Flow(FlowControl):
    """Reads no more from a client that has sent enough ahead of its turn."""

    def __init__(self, transport: asyncio.Transport, enough: Callable[[], bool]) -> None:
        """``enough`` is asked whenever somebody would read on."""
        super().__init__(transport)
        self._enough = enough

    def resume_reading(self) -> None:
        """Read on, unless there is enough."""
        if not self._enough():
            super().resume_reading()


class Answer(asyncio.Transport):
    """A connection as one answer sees it: closing it is left to ``end``, which gives the client
    time to read the answer.
    """

    def __init__(
        self, transport: asyncio.Transport, end: Callable[[], None], over: Callable[[], bool]
    ) -> None:
        """``over`` says whether the connection is being closed."""
        super().__init__()
        self._transport, self._end, self._over = transport, end, over

    def write(self, data: Any) -> None:
        """Send a part of the answer; nothing once the connection is being closed."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """The answer was the last."""
        self._end()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._over() or self._transport.is_closing()


def until_closed(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """An application whose answers of unknown length end with the connection: HTTP/1.0 knows no
    chunks.
    """

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
