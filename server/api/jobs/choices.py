"""Following one choice: engine events in, pieces of its stream and its whole answer out."""

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
from server.output.text import SettledText, Text, Trajectory, snapshot_of, text_of

Piece = tuple[dict[str, Any], dict[str, Any]]
"""A choice of a chunk, and what else the chunk holds."""


class Form(Protocol):
    """How a route writes its objects."""

    prefix: ClassVar[str]  # of ids
    whole: ClassVar[str]  # the ``object`` of an answer
    chunk: ClassVar[str]  # and of a piece of a stream
    tells_end: ClassVar[bool]  # log-probabilities are told of the end token too

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
        """The choice of a piece; with no text and no reason it says nothing."""
        ...

    @staticmethod
    def opening(index: int) -> dict[str, Any] | None:
        """A choice's first piece, if it has one of its own."""
        ...

    @staticmethod
    def logprobs(tokens: Sequence[TokenLogProb]) -> dict[str, Any]:
        """The log-probabilities of some tokens."""
        ...


@dataclass(frozen=True)
class Echo:
    """The prompt in front of an answer's text, and its log-probabilities where they are wanted,
    estimated from so many samples.
    """

    text: str = ""
    tokens: list[TokenLogProb] = field(default_factory=list)
    samples: int = 0


class Reader:
    """Follows one choice.

    Attributes:
        trajectory: its canvas, step by step.
        tokens: how many of its text are known so far; after the end, all.
        text, tally, canvas: how it ended, once it has.
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
        """Nothing has happened yet."""
        self._checkpoint, self._metrics = state.checkpoint, state.engine.metrics
        self._form, self._view, self._index = form, view, index
        self._subscription, self._echo = subscription, echo
        self._editable = subscription.request.editable
        self._through_ends = subscription.request.through_ends
        self.trajectory = Trajectory(self._checkpoint)
        self._settled = SettledText(
            self._checkpoint, self._editable, view.stops, self._through_ends
        )
        tokenizer, alternatives = self._checkpoint.tokenizer, view.alternatives or 0
        self._written = WrittenLogProbs(tokenizer, alternatives)
        self._tokens_told = 0
        self._has_settled = False
        self.tokens = 0

    def opening(self) -> list[dict[str, Any]]:
        """Choices in front of all events: the form's own, and the prompt's echo."""
        opening = self._form.opening(self._index)
        pieces = [] if opening is None else [opening]
        if self._echo.text or self._echo.tokens:
            pieces.append(self._delta(self._echo.text, self._echo.tokens))
        return pieces

    def take(self, event: Step | Done) -> list[Piece]:
        """An event's pieces."""
        return self._pieces_of(event) if isinstance(event, Step) else self._last_pieces(event)

    def follow(self, step: Step) -> str:
        """What has settled with a step; a stop string in it ends the request."""
        self.trajectory.follow(step)
        self._written.follow(step)
        if text := self._settled.more(self.trajectory.canvas, step.settled):
            self._note_settled()
        self.tokens = self._settled.tokens
        if self._settled.stopped:
            self._subscription.finish()
        return text

    def end(self, done: Done) -> None:
        """Sets ``text``, ``tally`` and ``canvas``."""
        self.tally, self.canvas = done.tally, done.tokens
        self.text = text_of(
            self._checkpoint, done.tokens, self._editable, self._view.stops, self._through_ends
        )
        self.tokens = self.text.tokens
        self._metrics.succeeded(self.text.reason, self.text.tokens)
        self._note_settled()

    def choice(self) -> dict[str, Any]:
        """The whole choice, after the end."""
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
            masked = canvas.count(self._checkpoint.info.mask_id)
            meta = {"step": step.step, "steps": step.steps, "masked": masked}
            shown = snapshot_of(self._checkpoint, canvas, self._editable)
            pieces.append((self._delta(shown), {"diffusion_meta": meta}))
        elif text:
            pieces.append((self._delta(text, self._more_tokens(canvas)), {}))
        return pieces

    def _last_pieces(self, done: Done) -> list[Piece]:
        self.end(done)
        rest = self.text.text if self._view.diffusing else self._settled.last(self.text.text)
        tokens = self._last_tokens(self._tokens_told)
        pieces = [(self._delta(rest, tokens), {})] if rest or tokens else []
        return [*pieces, (self._delta("", [], self.text.reason), {})]

    def _last_tokens(self, first: int) -> list[TokenLogProb]:
        """The tokens of the whole text from the ``first`` on."""
        if self._view.alternatives is None:
            return []
        offset, ends = len(self._echo.text), self._form.tells_end
        return self._written.of(self.canvas, self.text, first, offset, ends)

    def _more_tokens(self, canvas: Sequence[int]) -> list[TokenLogProb]:
        """The tokens that were not told before, as far as they lie within what was handed out."""
        text, said = self._settled.text, self._settled.characters
        if self._view.alternatives is None or text is None:
            return []
        tokens = self._written.of(canvas, text, self._tokens_told, len(self._echo.text))
        tokens = list(takewhile(lambda token: token.token.end <= said, tokens))
        self._tokens_told += len(tokens)
        return tokens

    def _note_settled(self) -> None:
        """Note when the first text could be read."""
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
