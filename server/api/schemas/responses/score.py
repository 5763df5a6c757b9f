"""What scoring answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.api.schemas.responses.common import Answer


class ScoredToken(Answer):
    """One token's share."""

    id: int
    text: str
    nats: float


class ScoreUsage(Answer):
    """Tokens, and what they took."""

    prompt_tokens: int = Field(description="that were given")
    scored_tokens: int
    total_tokens: int
    forwards: int = Field(description="evaluations of the network")


class Score(Answer):
    """An upper bound of a text's negative log-likelihood, estimated."""

    id: str
    object: Literal["score"]
    created: int
    model: str
    estimator: Literal["nelbo", "llada"]
    samples: int
    mixing_ratio: float
    seed: int
    nats: float
    standard_error: float | None = Field(description="of nats; null for a single sample")
    nats_per_token: float
    perplexity: float
    tokens: list[ScoredToken]
    usage: ScoreUsage
