"""The body of POST /v1/decisions: an input and questions with closed sets of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from sampler.params import SEED_LIMIT
from server.api.schemas.messages import MOST, joining
from server.api.schemas.neutral import LABEL, Neutral
from server.api.schemas.strict import StrictBody, StrictPart, refuse

MOST_QUESTIONS = 200
MOST_CHOICES = 255
MOST_LEVELS = 10
MOST_STEPS = 64
Words = Annotated[StrictStr, Field(min_length=1)]


class DecisionPart(StrictPart):
    """A text of the input."""

    type: Literal["input_text"]
    text: StrictStr


class DecisionMessage(StrictPart):
    """A user's message of the input."""

    role: Literal["user"]
    content: Annotated[
        StrictStr,
        BeforeValidator(
            joining("input_text"), json_schema_input_type=StrictStr | list[DecisionPart]
        ),
    ]


class Question(StrictPart):
    """Fields of all questions."""

    instructions: Words
    name: StrictStr | None = None

    def options(self) -> list[str]:
        """The answers, as the model writes them."""
        raise NotImplementedError

    def told(self) -> str:
        """The question with its answers, for the prompt."""
        raise NotImplementedError

    def listed(self, descriptions: Sequence[str | None]) -> str:
        """The question, and its answers with their descriptions."""
        lines = [
            f"- {option}" if about is None else f"- {option}: {about}"
            for option, about in zip(self.options(), descriptions, strict=True)
        ]
        return "\n".join([self.instructions, "Answer with one of these:", *lines])


class Predicate(Question):
    """Whether something is so."""

    type: Literal["predicate"]

    def options(self) -> list[str]:
        """See ``Question``."""
        return ["yes", "no"]

    def told(self) -> str:
        """See ``Question``."""
        return f"{self.instructions}\nAnswer yes or no."


class Choice(StrictPart):
    """One of the answers to choose from."""

    value: Words | StrictBool
    description: StrictStr | None = None

    @property
    def text(self) -> str:
        """As the model writes it."""
        return self.value if isinstance(self.value, str) else str(self.value).lower()


class ChoiceQuestion(Question):
    """Which one of several answers."""

    type: Literal["choice"]
    choices: Annotated[list[Choice], Field(fail_fast=True, min_length=2, max_length=MOST_CHOICES)]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        return _distinct(self, "choices")

    def options(self) -> list[str]:
        """See ``Question``."""
        return [choice.text for choice in self.choices]

    def told(self) -> str:
        """See ``Question``."""
        return self.listed([choice.description for choice in self.choices])


class Level(StrictPart):
    """A level of a scale."""

    label: Words
    description: StrictStr | None = None


class ScoreQuestion(Question):
    """A level of a scale, from the lowest to the highest."""

    type: Literal["score"]
    levels: Annotated[list[Level], Field(fail_fast=True, min_length=2, max_length=MOST_LEVELS)]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        return _distinct(self, "levels")

    def options(self) -> list[str]:
        """See ``Question``."""
        return [level.label for level in self.levels]

    def told(self) -> str:
        """See ``Question``."""
        return self.listed([level.description for level in self.levels])


def _distinct(question: Any, field: str) -> Any:
    """The question, unless two of its answers are written alike."""
    seen: dict[str, int] = {}
    for i, option in enumerate(question.options()):
        if seen.setdefault(option, i) != i:
            raise refuse(field, f"{field} {seen[option]} and {i} are written alike")
    return question


def _kind(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    return f"of type {kind}" if isinstance(kind, str) else None


AnyQuestion = Annotated[
    Annotated[Predicate, Tag("of type predicate")]
    | Annotated[ChoiceQuestion, Tag("of type choice")]
    | Annotated[ScoreQuestion, Tag("of type score")],
    Discriminator(
        _kind,
        custom_error_type="question",
        custom_error_message="is no object with a type, one of predicate, choice and score",
    ),
]


def _as_messages(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class DecisionsBody(StrictBody):
    """The body of POST /v1/decisions."""

    neutral: ClassVar = {
        "safety_identifier": LABEL,
        "cache_salt": LABEL,
        "joint": Neutral((False,), "each question is read on a canvas of its own"),
        "samples": Neutral((1,), "probabilities are exact, nothing is drawn"),
        "trajectory": Neutral(("none",), "nothing is written"),
    }

    model: str | None = None
    input: Annotated[
        list[DecisionMessage],
        Field(fail_fast=True, min_length=1, max_length=MOST),
        BeforeValidator(_as_messages, json_schema_input_type=StrictStr | list[DecisionMessage]),
    ]
    questions: Annotated[
        list[AnyQuestion], Field(fail_fast=True, min_length=1, max_length=MOST_QUESTIONS)
    ]
    steps: StrictInt = Field(default=1, ge=1, le=MOST_STEPS)
    seed: StrictInt | None = Field(default=None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
