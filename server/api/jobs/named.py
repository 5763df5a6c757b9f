"""Text jobs of one choice whose streams are named events, as on /v1/responses and /v1/messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import ClassVar

import orjson
from typing_extensions import TypedDict

from server.api.context import State
from server.api.jobs.choices import TextReader
from server.api.jobs.constraints import Constraint
from server.api.jobs.formats import ChoiceFormat
from server.api.jobs.prompts import Prompt
from server.api.jobs.text import TextJob, taken
from server.api.jobs.tools import ToolPlan
from server.api.schemas.requests import TextFields
from server.engine.events import Failed
from server.engine.stream import Subscription, merged
from server.output.calls import CallPiece, Heard, read_whole
from server.output.logprobs import TokenLogProb
from server.output.records import FinishReason
from server.output.thoughts import Thoughts


class Said(TypedDict):
    """A text, or more of it, and the reason why it ends if it does. ``thought``: it is one."""

    text: str
    reason: FinishReason | None
    thought: bool


class SaidFormat(ChoiceFormat[Said, Said]):
    """Passes texts on; the job builds the objects of its route."""

    tells_end: ClassVar = False
    tells_thoughts: ClassVar = True

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
        return {"text": text, "reason": reason, "thought": False}

    def piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[TokenLogProb],
        samples: int,
    ) -> Said:
        """See ``ChoiceFormat``."""
        return {"text": text, "reason": reason, "thought": False}

    def thought(self, index: int, text: str) -> Said:
        """See ``ChoiceFormat``."""
        return {"text": text, "reason": None, "thought": True}


Reader = TextReader[Said, Said]
Part = str | CallPiece | Thoughts
Event = Mapping[str, object]
"""The data of a stream event; its ``type`` is the event's name."""


class NamedJob(TextJob[Said, Said]):
    """A text job whose answer and events a subclass builds.

    Attributes:
        plan: the calls that the text may have.
    """

    def __init__(
        self,
        state: State,
        body: TextFields,
        form: SaidFormat,
        prompts: Sequence[Prompt],
        plan: ToolPlan,
        constraint: Constraint | None,
    ) -> None:
        """Check a body. ``constraint``: of its text.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, form, prompts, constraint)
        self.plan = plan

    @abstractmethod
    def answer(self, reader: Reader, heard: Heard) -> Mapping[str, object]:
        """The complete answer, after the end, with all thoughts, texts and calls."""

    @abstractmethod
    def begin(self) -> Iterator[Event]:
        """The first events, before there is any text."""

    @abstractmethod
    def more(self, part: Part) -> Iterator[Event]:
        """Events of more text or thoughts, which are not empty, or of a call."""

    @abstractmethod
    def end(self, reader: Reader, heard: Heard) -> Iterator[Event]:
        """The last events, after all texts and calls."""

    @abstractmethod
    def failure(self, failed: Failed) -> Event:
        """The last event of a stream that fails."""

    async def whole(self, readers: Sequence[Reader]) -> Mapping[str, object]:
        """See ``Job``."""
        (reader,) = readers
        thoughts, content = reader.divided()
        heard = read_whole(self.plan.reader(), content)
        first = Heard((Thoughts(thoughts),)) if thoughts else Heard()
        return self.answer(reader, first.joined(heard))

    async def stream(
        self, readers: Sequence[Reader], subscriptions: Sequence[Subscription]
    ) -> AsyncGenerator[dict[str, str]]:
        """See ``Job``."""
        (reader,) = readers
        calls, heard = self.plan.reader(), Heard()
        for event in self.begin():
            yield _written(event)
        async with aclosing(merged(subscriptions)) as events:
            async for _, step in events:
                found = step if isinstance(step, Failed) else taken(reader, step)
                if isinstance(found, Failed):
                    self.failed = found
                    yield _written(self.failure(found))
                    return
                for piece in found:
                    said = piece.choice
                    if said["thought"]:
                        more = Heard((Thoughts(said["text"]),))
                    else:
                        more = calls.feed(said["text"])
                    if said["reason"] is not None:
                        more = more.joined(calls.end())
                    heard = heard.joined(more)
                    for event in (event for part in more.parts for event in self.more(part)):
                        yield _written(event)
        for event in self.end(reader, heard.whole()):
            yield _written(event)


def _written(event: Event) -> dict[str, str]:
    return {"event": str(event["type"]), "data": orjson.dumps(event).decode()}
