"""Decodes streams of server-sent events (HTML standard, section 9.2.6), whole or in pieces."""

from __future__ import annotations

import re
from dataclasses import dataclass

LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the end may be the first half of CRLF


@dataclass(frozen=True)
class Event:
    """One event. ``name`` is ``message`` and ``id`` empty if the stream does not give them."""

    data: str
    name: str = "message"
    id: str = ""


class Decoder:
    """Decodes the bytes of one stream in pieces of any size. Comments and ``retry`` are ignored."""

    def __init__(self) -> None:
        """At the beginning of a stream."""
        self._rest = b""
        self._data: list[str] = []
        self._name = self._id = ""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        *lines, self._rest = LINE_END.split(self._rest + piece)
        events = []
        for line in lines:
            if line:
                self._field(line.decode("utf-8", "replace"))
            else:
                if self._data:
                    events.append(Event("\n".join(self._data), self._name or "message", self._id))
                self._data, self._name = [], ""
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id":
            self._id = value


def decode(stream: bytes | str) -> list[Event]:
    """All complete events of a stream; one that is cut off at its end is not an event."""
    return Decoder().feed(stream.encode() if isinstance(stream, str) else stream)
