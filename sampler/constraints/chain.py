"""The joint distribution of a canvas' open positions, given that its text is of a language.

A network gives independent marginals p_i(v). Restricted to the texts that an automaton accepts,
their product is a hidden Markov chain over the automaton's states:

    B_i(s) = sum over v of p_i(v) B_{i+1}(d(s, v))          mass of the completions from s
    draw v_i with probability p_i(v) B_{i+1}(d(s_i, v)) / B_i(s_i)

which draws exactly from the restricted product. With the maximum in place of the sum, and the best
in place of a draw, it finds the likeliest text. Tokens of one class lead to the same states, so
p_i is needed by class only, and the token is drawn within its class.

Positions without marginals (their logits were not read) count as free: a completion over them
exists or does not. All numbers are float64, on the host. Sums are scaled every few positions; where
they come near the least number all the same, they are made again from logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from sampler.constraints.byte_automaton import DEAD
from sampler.constraints.token_automaton import TokenAutomaton

AT_ONCE = 1 << 18
"""Most numbers of rows by transitions that are made at once."""
LEAST_SUM = 1e-200
"""Sums below are made again from logarithms."""
UNREAD = -1
"""In place of a token: the position is open, and its logits were not read."""


class Impossible(RuntimeError):
    """No text of the language agrees with the canvas."""


@dataclass(frozen=True)
class Chain:
    """A canvas, from the first open position of its constrained text to the end of the text.

    Attributes:
        automaton: the language.
        state: before the first position.
        tokens: id at each position; ``UNREAD`` or less at open ones: -2 - r at the r-th row.
    """

    automaton: TokenAutomaton
    state: int
    tokens: Int[np.ndarray, " L"]

    @classmethod
    def of(
        cls,
        automaton: TokenAutomaton,
        tokens: Int[np.ndarray, " N"],
        rows: Int[np.ndarray, " R"],
        masked: np.ndarray,
    ) -> Chain:
        """The chain of a canvas.

        Args:
            automaton: the language.
            tokens: of the whole constrained text.
            rows: positions whose logits were read and that are open, ascending.
            masked: open positions, as flags [N].

        Raises:
            Impossible: the tokens before the first open position begin no text of the language.
        """
        codes = np.where(masked, UNREAD, tokens)
        codes[rows] = -2 - np.arange(len(rows))
        begin = int((codes < 0).argmax()) if (codes < 0).any() else len(codes)
        state = automaton.start
        for id_ in codes[:begin].tolist():
            state = DEAD if state == DEAD else automaton.after(state, id_)
        if state == DEAD:
            raise Impossible("the tokens of the canvas begin no text of the language")
        return cls(automaton, state, codes[begin:])

    def masses(self, log_p: Float[np.ndarray, "R C"]) -> Masses:
        """B of every position, by sums.

        Args:
            log_p: log-probability of each class in each row.

        Raises:
            Impossible: there is no completion.
        """
        found = self._backward(log_p, Sums)
        if not found.of[0, self.state] > LEAST_SUM:
            found = self._backward(log_p, LogSums)
        return found.checked()

    def best(self, log_p: Float[np.ndarray, "R C"]) -> Masses:
        """The same with maxima.

        Raises:
            Impossible: there is no completion.
        """
        return self._backward(log_p, LogMaxima).checked()

    def _backward(self, log_p: Float[np.ndarray, "R C"], algebra: type[Algebra]) -> Masses:
        automaton, codes = self.automaton, self.tokens
        peak = log_p.max(1, initial=-np.inf)
        over = algebra(automaton, log_p - peak[:, None])
        length = len(codes)
        of = np.empty((length + 1, automaton.states))
        scales = np.zeros(length)
        read = np.flatnonzero(codes != UNREAD)
        free = length - (int(read[-1]) + 1 if len(read) else 0)  # unread positions at the end
        of[length - free] = over.flags(automaton.can_end(free))
        of[length - free + 1 :] = over.flags(automaton.accepting)
        at, ahead = length - free, of[length - free]
        for code in reversed(codes[: length - free].tolist()):
            at -= 1
            if code >= 0:
                ahead = over.given(ahead, code)
            elif code == UNREAD:
                ahead = over.free(ahead)
            else:
                ahead = over.summed(ahead, -2 - code)
                if at % over.unscaled == 0:
                    scales[at] = over.scale(ahead)
            of[at] = ahead
        return Masses(self, of, scales, peak, over)

    def states(self, ids: Int[np.ndarray, " L"]) -> Int[np.ndarray, " L1"] | None:
        """The states that tokens at all positions lead through; None where they are no text of the
        language.
        """
        automaton, state, found = self.automaton, self.state, [self.state]
        for label in automaton.class_of[ids].tolist():
            state = int(automaton.table[label, state])
            if state == DEAD:
                return None
            found.append(state)
        return np.array(found) if automaton.accepting[state] else None

    def with_rows(self, sample: Int[np.ndarray, " R"]) -> Int[np.ndarray, " L"] | None:
        """The tokens with those of the rows; None where a position is unread."""
        codes = self.tokens
        if (codes == UNREAD).any():
            return None
        return np.where(codes < 0, np.append(sample, 0)[-2 - np.minimum(codes, -2)], codes)


class Algebra:
    """Sums of products over the transitions of an automaton, as real numbers.

    Attributes:
        weights: of each class in each row, divided by the greatest of the row.
        zero, product: of these numbers.
        unscaled: one in so many positions is scaled.
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
    unscaled: ClassVar[int]

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
    unscaled = 4

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
    unscaled = 1

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


@dataclass(frozen=True)
class Masses:
    """B of the positions of a chain, and draws by it.

    Attributes:
        chain: the positions.
        of: by position and state, each position divided by a number of its own.
        scales: logarithms of these numbers, but for those of later positions.
        peaks: the greatest log-probability of each row.
        algebra: in which the numbers are.
    """

    chain: Chain
    of: Float[np.ndarray, "L1 Q"]
    scales: Float[np.ndarray, " L"]
    peaks: Float[np.ndarray, " R"]
    algebra: Algebra

    def checked(self) -> Masses:
        """The same.

        Raises:
            Impossible: there is no completion.
        """
        if not self.of[0, self.chain.state] > self.algebra.zero:
            raise Impossible("no text of the language completes the canvas")
        return self

    def draw(
        self, u: Float[np.ndarray, " R"] | None
    ) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " L1"]]:
        """A joint draw by uniforms, one a row, or the best where None.

        Returns:
            (class of the token in each row, states that the positions up to the last row lead
            through).
        """
        automaton, state = self.chain.automaton, self.chain.state
        first, label, target = automaton.first.tolist(), automaton.label, automaton.target
        drawn, states = np.zeros(len(self.peaks), dtype=np.int64), [state]
        last = int((self.chain.tokens < UNREAD).nonzero()[0].max(initial=-1))
        for at, code in enumerate(self.chain.tokens[: last + 1].tolist(), start=1):
            if code >= 0:
                state = automaton.after(state, code)
            else:
                here = slice(first[state], first[state + 1])
                terms = self.of[at].take(target[here])
                if code != UNREAD:
                    own = self.algebra.weights[-2 - code].take(label[here])
                    terms = self.algebra.product(own, terms)
                pick = int(terms.argmax())
                if code != UNREAD:
                    if u is not None:
                        pick = self._picked(terms, float(u[-2 - code]))
                    drawn[-2 - code] = label[here][pick]
                state = int(target[here][pick])
            states.append(state)
        return drawn, np.array(states)

    def _picked(self, terms: np.ndarray, u: float) -> int:
        """Which of some terms is hit by a uniform."""
        edges = self.algebra.shares(terms).cumsum()
        found = int(edges.searchsorted(u * edges[-1], side="right"))
        return min(found, int(edges.searchsorted(edges[-1])))

    def log_ratios(self, states: Int[np.ndarray, " L1"]) -> Float[np.ndarray, " R"]:
        """Logarithm of B_{i+1}(s_{i+1}) / B_i(s_i) in each row: added to the log-probability of a
        token, it gives that of the token given the language and the tokens before it.
        """
        codes = self.chain.tokens
        at = np.flatnonzero(codes < UNREAD)
        of = np.arange(len(states))
        logs = self.algebra.logs(self.of[of, states])
        found = np.empty(len(at))
        with np.errstate(invalid="ignore"):  # a text that is all but impossible
            found[-2 - codes[at]] = logs[at + 1] - logs[at] - self.scales[at]
            found -= self.peaks
        found[np.isnan(found)] = -np.inf
        return found
