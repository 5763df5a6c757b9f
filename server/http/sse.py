"""Server-sent events, as OpenAI's API writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from server.config import Settings
from server.http.wire import one_line


class EventStream(EventSourceResponse):
    """A stream of events whose lines end in LF alone, so that an empty line ends each for readers
    that look for two LF; ``data`` is JSON without any character that some reader ends a line at.
    """

    def __init__(
        self,
        events: AsyncGenerator[dict[str, str]],
        settings: Settings,
        headers: Mapping[str, str],
        background: BackgroundTask | None = None,
    ) -> None:
        """Nothing is sent yet; ``background`` is run after the end, or if nothing ever is."""
        super().__init__(
            _escaped(events),
            headers=headers,
            background=background,
            ping=settings.ping_seconds,
            sep="\n",
            shutdown_grace_period=settings.shutdown_seconds,
        )
        del self.headers["connection"]  # the connection's, not the answer's


async def _escaped(events: AsyncGenerator[dict[str, str]]) -> AsyncGenerator[dict[str, str]]:
    async with aclosing(events):
        async for event in events:
            yield {**event, "data": one_line(event["data"])}
