"""Reads the engine's events of one choice and builds its chunks and its complete answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Generic, NamedTuple

from server.api.context import State
from server.api.jobs.formats import ChoiceFormat, ChoiceT, PieceT
from server.api.schemas.requests import View
from server.api.schemas.responses.text import DiffusionMeta
from server.engine.events import Done, Step, Tally
from server.engine.stream import Subscription
from server.output.logprobs import TokenLogProb, WrittenLogProbs
from server.output.records import FinishReason, StepRecord
from server.output.text import SettledText, Text, TrajectoryEncoder, snapshot_of, text_of
from server.output.thoughts import Divided, divided

LEAST_ALTERNATIVE = 7  # bytes of a likely token in JSON, such as "":0.0 and a comma


class Piece(NamedTuple, Generic[PieceT]):
    """The choice of a chunk, and further fields of the chunk."""

    choice: PieceT
    diffusion: StepRecord | None = None
    meta: DiffusionMeta | None = None


@dataclass(frozen=True)
class Echo:
    """The echoed prompt of a choice.

    Attributes:
        text: of the prompt; empty without echo.
        tokens: with their log-probabilities, if they are requested.
        samples: Monte Carlo samples of the log-probabilities.
    """

    text: str = ""
    tokens: list[TokenLogProb] = field(default_factory=list)
    samples: int = 0


class TextReader(Generic[ChoiceT, PieceT]):
    """Reads the events of one choice and builds its answer objects.

    Attributes:
        trajectory: the canvas after the last step.
        tokens: number of tokens of the text so far.
        text, tally, canvas: the result; set at the end.
    """

    text: Text
    tally: Tally
    canvas: Sequence[int]

    def __init__(
        self,
        state: State,
        form: ChoiceFormat[ChoiceT, PieceT],
        view: View,
        index: int,
        subscription: Subscription,
        echo: Echo,
    ) -> None:
        """Start before the first event."""
        self._checkpoint, self._metrics = state.checkpoint, state.engine.metrics
        self._form, self._view, self._index = form, view, index
        self._subscription, self._echo = subscription, echo
        self._editable = subscription.request.editable
        self._through_ends = subscription.request.through_ends
        self.trajectory = TrajectoryEncoder(self._checkpoint)
        self._settled = SettledText(
            self._checkpoint, self._editable, view.stops, self._through_ends
        )
        tokenizer, alternatives = self._checkpoint.tokenizer, view.alternatives or 0
        self._written = WrittenLogProbs(tokenizer, alternatives)
        self._tokens_returned = 0
        self._thoughts = tokenizer.thoughts if form.tells_thoughts else None
        self._sent = Divided("", "")
        self._has_settled = False
        self.tokens = 0

    def opening(self) -> list[PieceT]:
        """Choices of chunks before any event: the route's first one, and the echoed prompt."""
        opening = self._form.opening(self._index)
        pieces = [] if opening is None else [opening]
        if self._echo.text or self._echo.tokens:
            pieces.append(self._delta(self._echo.text, self._echo.tokens))
        return pieces

    def take(self, event: Step | Done) -> list[Piece[PieceT]]:
        """The chunks that an event gives."""
        return self._pieces_of(event) if isinstance(event, Step) else self._last_pieces(event)

    def follow(self, step: Step) -> str:
        """Apply a step and return the newly settled text; a stop string in it ends the request."""
        self.trajectory.follow(step)
        self._written.follow(step)
        if text := self._settled.more(self.trajectory.canvas, step.settled):
            self._note_settled()
        self.tokens = self._settled.tokens
        if self._settled.stopped:
            self._subscription.finish()
        return text

    def end(self, done: Done) -> None:
        """Set ``text``, ``tally`` and ``canvas``."""
        self.tally, self.canvas = done.tally, done.tokens
        self.text = text_of(
            self._checkpoint, done.tokens, self._editable, self._view.stops, self._through_ends
        )
        if self._subscription.request.region is not None:  # a whole text, also on a full canvas
            self.text = replace(self.text, reason="stop")
        self.tokens = self.text.tokens
        self._metrics.succeeded(self.text.reason, self.text.tokens)
        self._note_settled()

    def choice(self) -> ChoiceT:
        """The complete choice, after the end."""
        tokens = [*self._echo.tokens, *self._last_tokens(first=0)]
        thoughts, content = self.divided()
        text, samples = self._echo.text + content, self._samples(tokens)
        reason = self.text.reason
        made = self._form.choice(self._index, text, reason, tokens, samples, self.canvas)
        return self._form.with_thoughts(made, thoughts) if thoughts else made

    def divided(self) -> Divided:
        """The complete text; all is content where the route does not tell thoughts apart."""
        if self._thoughts is None:
            return Divided("", self.text.text)
        return divided(self.text, self._thoughts)

    def least_bytes(self) -> int:
        """See ``ChoiceReader``."""
        alternatives = self._written.alternatives(self.text.positions)
        return LEAST_ALTERNATIVE * alternatives + len(self.text.text)

    def _pieces_of(self, step: Step) -> list[Piece[PieceT]]:
        text, canvas = self.follow(step), self.trajectory.canvas
        pieces: list[Piece[PieceT]] = []
        if self._view.trajectory:
            pieces.append(Piece(self._delta(""), diffusion=self.trajectory.record(step)))
        if self._view.diffusing:
            masked = sum(id_ == self._checkpoint.info.mask_id for id_ in canvas)
            meta: DiffusionMeta = {"step": step.step, "steps": step.steps, "masked": masked}
            shown = snapshot_of(self._checkpoint, canvas, self._editable)
            pieces.append(Piece(self._delta(shown), meta=meta))
        elif text and self._settled.text is not None:
            whole, size = self._settled.text, self._settled.characters
            pieces += self._deltas(whole, size, text, self._more_tokens(canvas))
        return pieces

    def _deltas(
        self, whole: Text, size: int | None, text: str, tokens: Sequence[TokenLogProb]
    ) -> list[Piece[PieceT]]:
        """The pieces of ``text``, with which ``size`` characters of the whole are told, or all."""
        if self._thoughts is None:
            return [Piece(self._delta(text, tokens))]
        found = divided(whole, self._thoughts, size)
        thoughts = found.thoughts[len(self._sent.thoughts) :]
        content = found.content[len(self._sent.content) :]
        self._sent = found
        thought = self._form.thought(self._index, thoughts) if thoughts else None
        pieces = [] if thought is None else [Piece(thought)]
        return [*pieces, Piece(self._delta(content, tokens))] if content or tokens else pieces

    def _last_pieces(self, done: Done) -> list[Piece[PieceT]]:
        self.end(done)
        rest = self.text.text if self._view.diffusing else self._settled.last(self.text.text)
        tokens = self._last_tokens(self._tokens_returned)
        pieces = self._deltas(self.text, None, rest, tokens) if rest or tokens else []
        return [*pieces, Piece(self._delta("", [], self.text.reason))]

    def _last_tokens(self, first: int) -> list[TokenLogProb]:
        """The tokens of the complete text, from number ``first`` on."""
        if self._view.alternatives is None:
            return []
        offset, ends = len(self._echo.text), self._form.tells_end
        return self._written.of(self.canvas, self.text, first, offset, ends)

    def _more_tokens(self, canvas: Sequence[int]) -> list[TokenLogProb]:
        """Tokens that were not returned yet and whose text was."""
        text, sent = self._settled.text, self._settled.characters
        if self._view.alternatives is None or text is None:
            return []
        tokens = self._written.of(canvas, text, self._tokens_returned, len(self._echo.text))
        tokens = list(takewhile(lambda token: token.token.end <= sent, tokens))
        self._tokens_returned += len(tokens)
        return tokens

    def _note_settled(self) -> None:
        """Record the time to the first settled text."""
        if not self._has_settled:
            self._has_settled = True
            self._metrics.settled(time.monotonic() - self._subscription.submitted)

    def _delta(
        self, text: str, tokens: Sequence[TokenLogProb] = (), reason: FinishReason | None = None
    ) -> PieceT:
        return self._form.piece(self._index, text, reason, tokens, self._samples(tokens))

    def _samples(self, tokens: Sequence[TokenLogProb]) -> int:
        """Monte Carlo samples of the echoed prompt's tokens, 0 if these do not begin with them."""
        begins = tokens and self._echo.tokens and tokens[0] is self._echo.tokens[0]
        return self._echo.samples if begins else 0
