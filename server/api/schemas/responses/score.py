"""Responses of scoring."""

from __future__ import annotations

from typing import Literal

from server.http.json_response import Answer
from server.output.score import ScoreRecord


class ScoreHead(Answer):
    """Fields that a score has besides its record."""

    id: str
    object: Literal["score"]
    created: int
    model: str


class Score(ScoreHead, ScoreRecord):
    """An estimated upper bound of a text's negative log-likelihood, in nats."""
