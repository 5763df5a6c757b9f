"""Text jobs of one choice whose streams are named events, as on /v1/responses and /v1/messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import ClassVar

import orjson
from typing_extensions import TypedDict

from server.api.jobs.choices import TextReader
from server.api.jobs.formats import ChoiceFormat
from server.api.jobs.text import TextJob, taken
from server.engine.events import Failed
from server.engine.stream import Subscription, merged
from server.output.logprobs import TokenLogProb
from server.output.records import FinishReason


class Said(TypedDict):
    """A text, or more of it, and the reason why it ends if it does."""

    text: str
    reason: FinishReason | None


class SaidFormat(ChoiceFormat[Said, Said]):
    """Passes texts on; the job builds the objects of its route."""

    tells_end: ClassVar = False

    def choice(
        self,
        index: int,
        text: str,
        reason: FinishReason,
        tokens: Sequence[TokenLogProb],
        samples: int,
        canvas: Sequence[int],
    ) -> Said:
        """See ``ChoiceFormat``."""
        return {"text": text, "reason": reason}

    def piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[TokenLogProb],
        samples: int,
    ) -> Said:
        """See ``ChoiceFormat``."""
        return {"text": text, "reason": reason}


Reader = TextReader[Said, Said]
Event = Mapping[str, object]
"""The data of a stream event; its ``type`` is the event's name."""


class NamedJob(TextJob[Said, Said]):
    """A text job whose answer and events a subclass builds."""

    @abstractmethod
    def answer(self, reader: Reader) -> Mapping[str, object]:
        """The complete answer, after the end."""

    @abstractmethod
    def begin(self) -> Iterator[Event]:
        """The first events, before there is any text."""

    @abstractmethod
    def more(self, text: str) -> Iterator[Event]:
        """Events of more text, which is not empty."""

    @abstractmethod
    def end(self, reader: Reader) -> Iterator[Event]:
        """The last events."""

    @abstractmethod
    def failure(self, failed: Failed) -> Event:
        """The last event of a stream that fails."""

    async def whole(self, readers: Sequence[Reader]) -> Mapping[str, object]:
        """See ``Job``."""
        (reader,) = readers
        return self.answer(reader)

    async def stream(
        self, readers: Sequence[Reader], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        """See ``Job``."""
        (reader,) = readers
        for event in self.begin():
            yield _written(event)
        async with aclosing(merged(subscriptions)) as events:
            async for _, step in events:
                found = step if isinstance(step, Failed) else taken(reader, step)
                if isinstance(found, Failed):
                    self.failed = found
                    yield _written(self.failure(found))
                    return
                for text in (piece.choice["text"] for piece in found):
                    for event in self.more(text) if text else ():
                        yield _written(event)
        for event in self.end(reader):
            yield _written(event)


def _written(event: Event) -> dict[str, str]:
    return {"event": str(event["type"]), "data": orjson.dumps(event).decode()}
