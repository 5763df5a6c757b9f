"""Reads the engine's events of one choice and builds its chunks and its complete answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, ClassVar, Protocol

from server.api.context import State
from server.api.schemas.requests import View
from server.engine.events import Done, Step, Tally
from server.engine.stream import Subscription
from server.output.logprobs import TokenLogProb, WrittenLogProbs
from server.output.text import SettledText, Text, TrajectoryEncoder, snapshot_of, text_of

Piece = tuple[dict[str, Any], dict[str, Any]]
"""The choice of a chunk, and further fields of the chunk."""


class Form(Protocol):
    """Builds the JSON objects of one route: completions or chat completions."""

    prefix: ClassVar[str]  # prefix of ids
    whole: ClassVar[str]  # ``object`` of an answer
    chunk: ClassVar[str]  # ``object`` of a chunk
    tells_end: ClassVar[bool]  # whether log-probabilities include the end token

    @staticmethod
    def choice(
        index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """A choice of an answer."""
        ...

    @staticmethod
    def delta(
        index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        """A choice of a chunk; the text and the reason may be empty."""
        ...

    @staticmethod
    def opening(index: int) -> dict[str, Any] | None:
        """The first chunk's choice, if the route has one before any text."""
        ...

    @staticmethod
    def logprobs(tokens: Sequence[TokenLogProb]) -> dict[str, Any]:
        """The ``logprobs`` object of some tokens."""
        ...


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


class Reader:
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
        form: type[Form],
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
        self._has_settled = False
        self.tokens = 0

    def opening(self) -> list[dict[str, Any]]:
        """Choices of chunks before any event: the route's first one, and the echoed prompt."""
        opening = self._form.opening(self._index)
        pieces = [] if opening is None else [opening]
        if self._echo.text or self._echo.tokens:
            pieces.append(self._delta(self._echo.text, self._echo.tokens))
        return pieces

    def take(self, event: Step | Done) -> list[Piece]:
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
        self.tokens = self.text.tokens
        self._metrics.succeeded(self.text.reason, self.text.tokens)
        self._note_settled()

    def choice(self) -> dict[str, Any]:
        """The complete choice, after the end."""
        tokens = self._last_tokens(first=0)
        text = self._echo.text + self.text.text
        logprobs = self._logprobs([*self._echo.tokens, *tokens])
        return self._form.choice(self._index, text, self.text.reason, logprobs)

    def _pieces_of(self, step: Step) -> list[Piece]:
        text, canvas = self.follow(step), self.trajectory.canvas
        pieces: list[Piece] = []
        if self._view.trajectory:
            pieces.append((self._delta(""), {"diffusion": self.trajectory.record(step)}))
        if self._view.diffusing:
            masked = sum(id_ == self._checkpoint.info.mask_id for id_ in canvas)
            meta = {"step": step.step, "steps": step.steps, "masked": masked}
            shown = snapshot_of(self._checkpoint, canvas, self._editable)
            pieces.append((self._delta(shown), {"diffusion_meta": meta}))
        elif text:
            pieces.append((self._delta(text, self._more_tokens(canvas)), {}))
        return pieces

    def _last_pieces(self, done: Done) -> list[Piece]:
        self.end(done)
        rest = self.text.text if self._view.diffusing else self._settled.last(self.text.text)
        tokens = self._last_tokens(self._tokens_returned)
        pieces = [(self._delta(rest, tokens), {})] if rest or tokens else []
        return [*pieces, (self._delta("", [], self.text.reason), {})]

    def _last_tokens(self, first: int) -> list[TokenLogProb]:
        """The tokens of the complete text, from number ``first`` on."""
        if self._view.alternatives is None:
            return []
        offset, ends = len(self._echo.text), self._form.tells_end
        return self._written.of(self.canvas, self.text, first, offset, ends)

    def _more_tokens(self, canvas: Sequence[int]) -> list[TokenLogProb]:
        """Tokens that were not returned yet and whose text was."""
        text, said = self._settled.text, self._settled.characters
        if self._view.alternatives is None or text is None:
            return []
        tokens = self._written.of(canvas, text, self._tokens_returned, len(self._echo.text))
        tokens = list(takewhile(lambda token: token.token.end <= said, tokens))
        self._tokens_returned += len(tokens)
        return tokens

    def _note_settled(self) -> None:
        """Record the time to the first settled text."""
        if not self._has_settled:
            self._has_settled = True
            self._metrics.settled(time.monotonic() - self._subscription.submitted)

    def _delta(
        self, text: str, tokens: Sequence[TokenLogProb] = (), reason: str | None = None
    ) -> dict[str, Any]:
        return self._form.delta(self._index, text, reason, self._logprobs(tokens))

    def _logprobs(self, tokens: Sequence[TokenLogProb]) -> dict[str, Any] | None:
        if self._view.alternatives is None or not tokens:
            return None
        logprobs = self._form.logprobs(tokens)
        if self._echo.tokens and tokens[0] is self._echo.tokens[0]:
            logprobs["prompt_samples"] = self._echo.samples
        return logprobs
