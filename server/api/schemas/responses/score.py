"""Responses of scoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.responses.common import AnswerDict


class ScoredToken(AnswerDict):
    """A token's part of the score."""

    id: int
    text: str
    nats: float


class ScoreUsage(AnswerDict):
    """Token counts and the work of scoring."""

    prompt_tokens: Annotated[int, Field(description="tokens of the prompt")]
    scored_tokens: int
    total_tokens: int
    forwards: Annotated[int, Field(description="network evaluations")]


class Score(AnswerDict):
    """An estimated upper bound of a text's negative log-likelihood, in nats."""

    id: str
    object: Literal["score"]
    created: int
    model: str
    estimator: Literal["nelbo", "llada"]
    samples: int
    mixing_ratio: float
    seed: int
    nats: float
    standard_error: Annotated[float | None, Field(description="of nats; null for a single sample")]
    nats_per_token: float
    perplexity: float
    tokens: list[ScoredToken]
    usage: ScoreUsage
