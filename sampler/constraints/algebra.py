"""Sums of products over the transitions of an automaton: as they are, as logarithms, and with the
maximum in place of the sum.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from sampler.constraints.byte_automaton import DEAD
from sampler.constraints.token_automaton import TokenAutomaton

AT_ONCE = 1 << 18
"""Most numbers of rows by transitions that are made at once."""
LEAST_SUM = 1e-200
"""Sums below are made again from logarithms."""


class Algebra:
    """Sums of products over the transitions of an automaton, as real numbers.

    Attributes:
        weights: of each class in each row, divided by the greatest of the row.
        zero, product: of these numbers.
        scaled_every: one in so many positions is scaled.
    """

    def __init__(self, automaton: TokenAutomaton, log_p: Float[np.ndarray, "R C"]) -> None:
        """Of rows with these log-probabilities; the greatest of each row is 0."""
        self.weights = self.of_logs(log_p)
        self._automaton, self._arcs = automaton, automaton.arcs
        self._some_end = len(automaton.leaving) < automaton.states
        width = len(self._arcs.labels) + len(self._arcs.target)
        self._at_once = max(1, AT_ONCE // max(width, 1))
        self._block, self._begin = self.weights[:0], 0

    zero: ClassVar[float]
    product: ClassVar[np.ufunc]
    scaled_every: ClassVar[int]

    def of_logs(self, logs: np.ndarray) -> np.ndarray:
        """Numbers by their logarithms."""
        raise NotImplementedError

    def sums(self, terms: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """Sums of runs of terms along the last axis, by where the runs begin."""
        raise NotImplementedError

    def scale(self, numbers: np.ndarray) -> float:
        """Divide numbers by their greatest, and return its logarithm; 0 where all are 0."""
        raise NotImplementedError

    def logs(self, numbers: np.ndarray) -> np.ndarray:
        """Logarithms of numbers."""
        raise NotImplementedError

    def shares(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers as they are, but for a factor that all of them share."""
        raise NotImplementedError

    def flags(self, states: np.ndarray) -> np.ndarray:
        """1 for some states, 0 for the others."""
        one = self.of_logs(np.zeros(1))
        return np.where(states, one, self.zero)

    def summed(self, ahead: np.ndarray, row: int) -> np.ndarray:
        """B before a position whose logits were read."""
        terms = self.product(self._of_arcs(row), ahead.take(self._arcs.target))
        return self._placed(self.sums(terms, self._arcs.first))

    def _of_arcs(self, row: int) -> np.ndarray:
        """Weights of the arcs in a row; made for as many rows at once as fit ``AT_ONCE``."""
        at = row - self._begin
        if at < 0 or at >= len(self._block):
            self._begin = row - row % self._at_once
            rows = self.weights[self._begin : self._begin + self._at_once]
            of_sets = self.sums(rows.take(self._arcs.labels, axis=1), self._arcs.begins)
            self._block = of_sets.take(self._arcs.set_of, axis=1)
            at = row - self._begin
        return self._block[at]

    def free(self, ahead: np.ndarray) -> np.ndarray:
        """B before a position whose logits were not read: that of its best token."""
        return self._placed(np.maximum.reduceat(ahead[self._arcs.target], self._arcs.first))

    def given(self, ahead: np.ndarray, id_: int) -> np.ndarray:
        """B before a position that holds a token."""
        automaton = self._automaton
        following = automaton.table[automaton.class_of[id_]]
        return np.where(following == DEAD, self.zero, ahead[following])

    def _placed(self, sums: np.ndarray) -> np.ndarray:
        if not self._some_end:
            return sums
        found = np.full(self._automaton.states, self.zero)
        found[self._automaton.leaving] = sums
        return found


class Sums(Algebra):
    """As they are."""

    zero = 0.0
    product = np.multiply
    scaled_every = 4

    def of_logs(self, logs: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return np.exp(logs)

    def sums(self, terms: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return np.add.reduceat(terms, begins, axis=-1)

    def scale(self, numbers: np.ndarray) -> float:
        """See ``Algebra``. Numbers that are all less than ``LEAST_SUM`` become 0."""
        greatest = float(numbers.max())
        if not greatest > LEAST_SUM:
            numbers[:] = 0.0
            return 0.0
        numbers /= greatest
        return math.log(greatest)

    def logs(self, numbers: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        with np.errstate(divide="ignore"):
            return np.log(numbers)

    def shares(self, numbers: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return numbers


class LogMaxima(Algebra):
    """As logarithms, with the maximum in place of the sum."""

    zero = -np.inf
    product = np.add
    scaled_every = 1

    def of_logs(self, logs: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return logs

    def sums(self, terms: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return np.maximum.reduceat(terms, begins, axis=-1)

    def scale(self, numbers: np.ndarray) -> float:
        """See ``Algebra``."""
        greatest = float(numbers.max())
        if greatest == -np.inf:
            return 0.0
        numbers -= greatest
        return greatest

    def logs(self, numbers: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return numbers

    def shares(self, numbers: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        return np.exp(numbers - numbers.max())


class LogSums(LogMaxima):
    """As logarithms, which no product is too small for."""

    def sums(self, terms: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """See ``Algebra``."""
        greatest = np.maximum.reduceat(terms, begins, axis=-1)
        shift = np.where(greatest == -np.inf, 0.0, greatest)
        count = np.diff(np.append(begins, terms.shape[-1]))
        less = np.exp(terms - np.repeat(shift, count, axis=-1))
        with np.errstate(divide="ignore"):
            return np.log(np.add.reduceat(less, begins, axis=-1)) + shift
