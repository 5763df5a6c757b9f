"""The answer of POST /v1/decisions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.responses.openai_responses import InputTokensDetails, OutputTokensDetails
from server.http.json_response import Answer

Probability = Annotated[float, Field(ge=0, le=1)]


class AnsweredQuestion(Answer):
    """Fields of all answers."""

    name: str | None
    entropy: Annotated[float, Field(description="of the distribution over the answers, in nats")]


class PredicateAnswer(AnsweredQuestion):
    """How probable it is that something is so."""

    type: Literal["predicate"]
    probability: Annotated[float, Field(description="of yes, against no")]


class ValueProbability(Answer):
    """The probability of a choice."""

    value: str | bool
    probability: Probability


class ChoiceAnswer(AnsweredQuestion):
    """The most probable choice, and the probability of each."""

    type: Literal["choice"]
    choice: str | bool
    probabilities: list[ValueProbability]
    confidence: Annotated[float, Field(description="probability of the choice")]


class LevelProbability(Answer):
    """The probability of a level."""

    value: Annotated[int, Field(description="number of the level, from 0")]
    label: str
    probability: Probability


class ScoreAnswer(AnsweredQuestion):
    """The expected level, and the probability of each."""

    type: Literal["score"]
    score: Annotated[float, Field(description="expected number of the level")]
    probabilities: list[LevelProbability]
    confidence: Annotated[float, Field(description="probability of the most probable level")]


class DecisionsUsage(Answer):
    """Token counts."""

    input_tokens: Annotated[int, Field(description="tokens of all prompts, one for each question")]
    input_tokens_details: InputTokensDetails
    output_tokens: Annotated[int, Field(description="positions of all answers")]
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    canvases: Annotated[int, Field(description="canvases that the network read")]


class Decisions(Answer):
    """Probabilities of the answers to questions."""

    id: str
    object: Literal["decisions"]
    created: Annotated[int, Field(description="seconds since 1970")]
    model: str
    steps: int
    answers: Annotated[
        list[PredicateAnswer | ChoiceAnswer | ScoreAnswer],
        Field(description="in the order of the questions"),
    ]
    usage: DecisionsUsage
