"""Text jobs whose streams are chunks, as on OpenAI's completions and chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import orjson

from server.api.context import State
from server.api.jobs.choices import Piece, TextReader
from server.api.jobs.constraints import Constraint
from server.api.jobs.formats import AnswerFormat, ChoiceT, PieceT
from server.api.jobs.prompts import Prompt
from server.api.jobs.text import TextJob, taken
from server.api.schemas.requests import TextFields
from server.engine.events import Failed
from server.engine.stream import Subscription, merged
from server.http.errors import error_body


class ChunkJob(TextJob[ChoiceT, PieceT]):
    """A text job whose answer has all choices, and whose stream has a chunk for each piece."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        form: AnswerFormat[ChoiceT, PieceT],
        prompts: Sequence[Prompt],
        constraint: Constraint | None = None,
    ) -> None:
        """Check a body. ``constraint``: of its texts.

        Raises:
            ApiError: naming the field.
        """
        super().__init__(state, body, form, prompts, constraint)
        self._answers = form

    async def whole(self, readers: Sequence[TextReader[ChoiceT, PieceT]]) -> Mapping[str, object]:
        """See ``Job``."""
        choices = [choice async for choice in self.choices(readers)]
        return self._answers.answer(self.head, choices, self.usage(readers))

    async def stream(
        self,
        readers: Sequence[TextReader[ChoiceT, PieceT]],
        subscriptions: Sequence[Subscription],
    ) -> AsyncGenerator[dict[str, str]]:
        """Server-sent events: step changes if requested, text as it settles, finish reasons, the
        usage and ``[DONE]``.
        """

        def event_of(piece: Piece[PieceT]) -> dict[str, str]:
            chunk = self._answers.chunk(self.head, [piece.choice])
            if piece.diffusion is not None:
                chunk["diffusion"] = piece.diffusion
            if piece.meta is not None:
                chunk["diffusion_meta"] = piece.meta
            if self.stream_options.continuous_usage_stats:
                chunk["usage"] = self.counts(readers)
            return _event(chunk)

        for reader in readers:
            for choice in reader.opening():
                yield event_of(Piece(choice))
        async with aclosing(merged(subscriptions)) as events:
            async for i, event in events:
                found = event if isinstance(event, Failed) else taken(readers[i], event)
                if isinstance(found, Failed):
                    self.failed = found
                    yield _event(error_body(500, found.message, None, found.code))
                    break
                for piece in found:
                    yield event_of(piece)
            else:
                if self.stream_options.include_usage:
                    last = self._answers.chunk(self.head, [])
                    last["usage"] = {**self.usage(readers)}
                    yield _event(last)
        yield {"data": "[DONE]"}


def _event(data: Mapping[str, object]) -> dict[str, str]:
    return {"data": orjson.dumps(data).decode()}
