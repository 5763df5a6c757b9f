"""A score as a JSON object."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from models.checkpoints.load import Checkpoint
from server.engine.score_request import Score, ScoreRequest
from server.http.json_response import Answer

LARGEST = 700.0  # nats whose exponential is still a number


class ScoredToken(Answer):
    """A token's part of the score."""

    id: int
    text: str
    nats: float


class ScoreUsage(Answer):
    """Token counts and the work of scoring."""

    prompt_tokens: Annotated[int, Field(description="tokens of the prompt")]
    scored_tokens: int
    total_tokens: int
    forwards: Annotated[int, Field(description="network evaluations")]


class ScoreRecord(Answer):
    """A score, in nats, with its estimator and parameters."""

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


def score_record(checkpoint: Checkpoint, request: ScoreRequest, score: Score) -> ScoreRecord:
    """The record of a score."""
    params, per_token = request.params, score.total / len(score.nats)
    ids = [request.tokens[at] for at in request.scored]
    before = request.tokens[: request.scored[0]]
    tokenizer = checkpoint.tokenizer
    tokens = tokenizer.tokens(before, ids, tokenizer.continuation(before, ids))
    return {
        "estimator": params.estimator,
        "samples": params.samples,
        "mixing_ratio": params.mixing_ratio if params.estimator == "nelbo" else 0.0,
        "seed": params.seed,
        "nats": score.total,
        "standard_error": score.standard_error,
        "nats_per_token": per_token,
        "perplexity": math.exp(min(per_token, LARGEST)),
        "tokens": [
            {"id": token.id, "text": token.label, "nats": nats}
            for token, nats in zip(tokens, score.nats, strict=True)
        ],
        "usage": {
            "prompt_tokens": len(request.tokens) - len(ids),
            "scored_tokens": len(ids),
            "total_tokens": len(request.tokens),
            "forwards": params.samples,
        },
    }
