"""Server-sent events, as OpenAI's API writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from server.http.json_response import one_line


class EventStream(EventSourceResponse):
    """A stream of server-sent events, each ended by two LF; ``data`` is JSON on one line.

    Lines end in LF alone, for readers that look for an empty line between two LF.
    """

    def __init__(
        self,
        events: AsyncGenerator[dict[str, str]],
        headers: Mapping[str, str],
        *,
        ping_seconds: int,
        grace_seconds: float,
        background: BackgroundTask | None = None,
    ) -> None:
        """Prepare the response; nothing is sent yet.

        Args:
            events: fields of each event by name.
            headers: of the response.
            ping_seconds: silence after which a comment is sent.
            grace_seconds: time that the stream may go on after the server begins to shut down.
            background: run after the stream has ended, also when it never began.
        """
        super().__init__(
            _escaped(events),
            headers=headers,
            background=background,
            ping=ping_seconds,
            sep="\n",
            shutdown_grace_period=grace_seconds,
        )
        del self.headers["connection"]  # set by the HTTP protocol


async def _escaped(events: AsyncGenerator[dict[str, str]]) -> AsyncGenerator[dict[str, str]]:
    async with aclosing(events):
        async for event in events:
            yield {**event, "data": one_line(event["data"])}
