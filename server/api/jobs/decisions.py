"""Probabilities of the answers to a question, from the network's marginals.

The answers of a question are written on one canvas: after the prompt there are as many masks as the
longest answer has tokens, and one more; the rest of a shorter answer is end tokens. One run of the
network gives independent marginals at these positions. The probability of an answer is the product
of those of its tokens, divided by the sum over all answers: the distribution of the canvas, given
that its text is one of them.

With several steps the positions are fixed from left to right, in as many parts of equal size. The
network runs again for each beginning that answers share, and an answer's probability is the product
of those of its parts. This is the exact distribution of texts that a sampler would draw in this
order, so nothing is drawn, and no seed matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from server.api.schemas.decisions import ChoiceQuestion, Question, ScoreQuestion
from server.api.schemas.responses.decisions import (
    AnsweredQuestion,
    ChoiceAnswer,
    PredicateAnswer,
    ScoreAnswer,
)
from server.engine.marginals import MarginalRequest

Beginning = tuple[int, ...]


def parts_of(length: int, steps: int) -> list[int]:
    """The number of positions that are fixed before each step."""
    steps = min(steps, length)
    return [step * length // steps for step in range(steps)]


def log_sum(terms: Sequence[float]) -> float:
    """Logarithm of a sum, by logarithms; of no terms, minus infinity."""
    greatest = max(terms, default=-math.inf)
    if greatest == -math.inf:
        return greatest
    return greatest + math.log(math.fsum(math.exp(term - greatest) for term in terms))


@dataclass
class Decision:
    """One question while its answers are read.

    Attributes:
        prompt: ids before the answer.
        options: ids of each answer, without end tokens; no two are equal.
        ends: ids that end a text, at least one.
        steps: network evaluations of each answer.
        mask_id: of the model.
        log_p: log-probability of each answer, by the parts so far.
    """

    prompt: list[int]
    options: Sequence[list[int]]
    ends: Sequence[int]
    steps: int
    mask_id: int
    log_p: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.length = max(map(len, self.options)) + 1
        self.fixed = parts_of(self.length, self.steps)
        self.log_p = [0.0] * len(self.options)
        end = self.ends[0]
        self._whole = [(*ids, *[end] * (self.length - len(ids))) for ids in self.options]

    @property
    def most_positions(self) -> int:
        """Positions of all its canvases at most: after the first step an answer has its own."""
        canvases = 1 + (len(self.fixed) - 1) * len(self.options)
        return canvases * (len(self.prompt) + self.length)

    def canvases(self, step: int) -> dict[Beginning, list[int]]:
        """The canvases of a step, by the beginning of the answers that each is for."""
        fixed = self.fixed[step]
        masks = [self.mask_id] * (self.length - fixed)
        return {
            begun: [*self.prompt, *begun, *masks]
            for begun in dict.fromkeys(whole[:fixed] for whole in self._whole)
        }

    def rows(self, step: int) -> list[int]:
        """Positions of each canvas of a step that are read."""
        first = len(self.prompt)
        return list(range(first + self.fixed[step], first + self.length))

    def take(
        self,
        step: int,
        marginals: Sequence[Sequence[Sequence[float]]],
        columns: dict[int, int],
    ) -> None:
        """Count a step.

        Args:
            step: number of the step.
            marginals: of its canvases, in their order, by row and candidate.
            columns: the candidate that each id is.
        """
        fixed, last = self.fixed[step], step + 1 == len(self.fixed)
        after = self.length if last else self.fixed[step + 1]
        for begun, rows in zip(self.canvases(step), marginals, strict=True):
            ends = [log_sum([row[columns[id_]] for id_ in self.ends]) for row in rows]
            weights: dict[int, float] = {}
            for i, whole in enumerate(self._whole):
                if whole[:fixed] == begun:
                    written = range(fixed, len(self.options[i]))
                    told = [rows[at - fixed][columns[whole[at]]] for at in written]
                    weights[i] = math.fsum([*told, *ends[len(told) :]])
            total = log_sum(list(weights.values()))
            shared: dict[Beginning, list[float]] = {}
            for i, weight in weights.items():
                shared.setdefault(self._whole[i][:after], []).append(weight)
            for i in weights:
                self.log_p[i] += log_sum(shared[self._whole[i][:after]]) - total

    def probabilities(self) -> list[float]:
        """Of the answers; they add up to 1."""
        total = log_sum(self.log_p)
        return [min(1.0, math.exp(log_p - total)) for log_p in self.log_p]


def candidates_of(decisions: Sequence[Decision]) -> list[int]:
    """Ids whose log-probabilities are needed."""
    found = {id_ for decision in decisions for ids in decision.options for id_ in ids}
    return sorted(found.union(*(decision.ends for decision in decisions)))


def request_of(decisions: Sequence[Decision], step: int, candidates: list[int]) -> MarginalRequest:
    """The canvases of a step of all questions that take it."""
    canvases: list[list[int]] = []
    rows: list[list[int]] = []
    for decision in decisions:
        made = decision.canvases(step)
        canvases += made.values()
        rows += [decision.rows(step)] * len(made)
    return MarginalRequest(canvases, rows, candidates)


def entropy_of(probabilities: Sequence[float]) -> float:
    """In nats."""
    return max(0.0, -math.fsum(p * math.log(p) for p in probabilities if p > 0))


def answer_to(
    question: Question, decision: Decision
) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer:
    """The answer to a question whose steps have all been taken."""
    found = decision.probabilities()
    shared: AnsweredQuestion = {"name": question.name, "entropy": entropy_of(found)}
    best = max(range(len(found)), key=found.__getitem__)
    if isinstance(question, ChoiceQuestion):
        values = [choice.value for choice in question.choices]
        return {
            "type": "choice",
            **shared,
            "choice": values[best],
            "probabilities": [
                {"value": value, "probability": p} for value, p in zip(values, found, strict=True)
            ],
            "confidence": found[best],
        }
    if isinstance(question, ScoreQuestion):
        labels = question.options()
        return {
            "type": "score",
            **shared,
            "score": math.fsum(level * p for level, p in enumerate(found)),
            "probabilities": [
                {"value": level, "label": label, "probability": p}
                for level, (label, p) in enumerate(zip(labels, found, strict=True))
            ],
            "confidence": found[best],
        }
    return {"type": "predicate", **shared, "probability": found[0]}
