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

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sampler.constraints.algebra import LEAST_SUM, Algebra, LogMaxima, LogSums, Sums
from sampler.constraints.byte_automaton import DEAD
from sampler.constraints.token_automaton import TokenAutomaton

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
                if at % over.scaled_every == 0:
                    scales[at] = over.scale(ahead)
            of[at] = ahead
        return Masses(self, of, scales, peak, over)


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

    def follow(self, sample: Int[np.ndarray, " R"]) -> Int[np.ndarray, " L1"] | None:
        """The states that tokens in the rows lead through, as ``draw`` returns them; None where it
        cannot draw these tokens.
        """
        automaton, state = self.chain.automaton, self.chain.state
        states = [state]
        for at, code in enumerate(self._up_to_the_last_row(), start=1):
            if code == UNREAD:
                state = int(automaton.target[self._best(at, state)])
            else:
                state = automaton.after(state, code if code >= 0 else int(sample[-2 - code]))
            if state == DEAD or not self.of[at, state] > self.algebra.zero:
                return None
            states.append(state)
        return np.array(states)

    def _up_to_the_last_row(self) -> list[int]:
        """The chain's tokens up to the last that is drawn."""
        last = int((self.chain.tokens < UNREAD).nonzero()[0].max(initial=-1))
        return self.chain.tokens[: last + 1].tolist()

    def _best(self, at: int, state: int) -> int:
        """The transition at an unread position: the one with the most completions behind it."""
        begin, end = self.chain.automaton.firsts[state : state + 2]
        terms = self.of[at].take(self.chain.automaton.target[begin:end])
        return begin + int(terms.argmax())

    def draw(
        self, u: Float[np.ndarray, " R"] | None
    ) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " L1"]]:
        """A joint draw by uniforms, one a row, or the best where None.

        Returns:
            (class of the token in each row, states that the positions up to the last row lead
            through).
        """
        automaton, state = self.chain.automaton, self.chain.state
        first, label, target = automaton.firsts, automaton.label, automaton.target
        weights = self.algebra.weights
        drawn, states = np.zeros(len(self.peaks), dtype=np.int64), [state]
        for at, code in enumerate(self._up_to_the_last_row(), start=1):
            if code >= 0:
                state = automaton.after(state, code)
            elif code == UNREAD:
                state = int(target[self._best(at, state)])
            else:
                row, begin, end = -2 - code, first[state], first[state + 1]
                own = weights[row].take(label[begin:end])
                terms = self.algebra.product(own, self.of[at].take(target[begin:end]))
                found = terms.argmax() if u is None else self._picked(terms, float(u[row]))
                pick = begin + int(found)
                drawn[row], state = label[pick], int(target[pick])
            states.append(state)
        return drawn, np.array(states)

    def _picked(self, terms: np.ndarray, u: float) -> int:
        """Which of some terms is hit by a uniform."""
        edges = self.algebra.shares(terms).cumsum()
        found = int(edges.searchsorted(u * edges[-1], side="right"))
        return found if found < len(edges) else int(edges.searchsorted(edges[-1]))

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
