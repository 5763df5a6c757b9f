"""The JSON objects of one route that generates text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from server.api.schemas.responses.common import Usage
from server.api.schemas.responses.text import Chunk
from server.output.logprobs import TokenLogProb
from server.output.records import FinishReason

ChoiceT = TypeVar("ChoiceT", bound=Mapping[str, object])
PieceT = TypeVar("PieceT", bound=Mapping[str, object])


@dataclass(frozen=True)
class Head:
    """Fields that an answer and all chunks of its stream share."""

    id: str
    created: int
    model: str
    seed: int


class ChoiceFormat(ABC, Generic[ChoiceT, PieceT]):
    """Builds the choices of one route.

    ``ChoiceT`` is the type of a complete choice, ``PieceT`` that of a choice in a chunk. Where
    ``tokens`` is empty no log-probabilities were asked for; ``samples`` is the number of Monte
    Carlo samples of those of an echoed prompt, 0 if there is none among the tokens.

    Attributes:
        prefix: of ids, with what separates it from the number.
        tells_end: whether log-probabilities include the end token.
        tells_thoughts: whether what a model thinks is told apart from its text.
    """

    prefix: ClassVar[str]
    tells_end: ClassVar[bool]
    tells_thoughts: ClassVar[bool] = False

    @abstractmethod
    def choice(
        self,
        index: int,
        text: str,
        reason: FinishReason,
        tokens: Sequence[TokenLogProb],
        samples: int,
        canvas: Sequence[int],
    ) -> ChoiceT:
        """A complete choice."""

    @abstractmethod
    def piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[TokenLogProb],
        samples: int,
    ) -> PieceT:
        """A choice of a chunk; the text and the reason may be empty."""

    def with_thoughts(self, choice: ChoiceT, thoughts: str) -> ChoiceT:
        """A complete choice with what the model thought, where the route tells that."""
        del thoughts
        return choice

    def thought(self, index: int, text: str) -> PieceT | None:
        """A choice of a chunk with more of what the model thinks; likewise."""
        del index, text
        return None

    def opening(self, index: int) -> PieceT | None:
        """The first chunk's choice, if the route has one before any text."""
        return None


class AnswerFormat(ChoiceFormat[ChoiceT, PieceT]):
    """Builds the objects of completions, chat completions or trajectories."""

    @abstractmethod
    def answer(self, head: Head, choices: list[ChoiceT], usage: Usage) -> Mapping[str, object]:
        """A complete answer."""

    @abstractmethod
    def chunk(self, head: Head, choices: list[PieceT]) -> Chunk:
        """A chunk of a stream."""
