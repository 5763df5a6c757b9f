"""Log-probabilities of the tokens of a text, each as of the step that wrote it last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.tokenization.spans import Token
from models.tokenization.tokenizer import TextTokenizer
from server.engine.events import LogProbs, Step
from server.output.text import Text


@dataclass(frozen=True)
class TokenLogProb:
    """One token of a text.

    Attributes:
        token: the token, and its characters of the text that it was written in.
        offset: characters before it, those of an echoed prompt included.
        logprobs: its log-probabilities; None for a given token without an estimate.
        top: the likeliest tokens and their log-probabilities, as many as were asked for.
    """

    token: Token
    offset: int
    logprobs: LogProbs | None
    top: tuple[tuple[Token, float], ...]


class WrittenLogProbs:
    """Keeps the log-probabilities of one canvas, for each position those of its last write."""

    def __init__(self, tokenizer: TextTokenizer, alternatives: int) -> None:
        """Nothing is written yet."""
        self._tokenizer, self._alternatives = tokenizer, alternatives
        self._written: dict[int, LogProbs] = {}

    def follow(self, step: Step) -> None:
        """Update the positions that a step wrote."""
        for change in step.changes:
            if change.logprobs is not None:
                self._written[change.position] = change.logprobs
        self._written.update(step.completed)

    def alternatives(self, positions: Sequence[int]) -> int:
        """Number of likely tokens that ``of`` returns for some positions."""
        found = (self._written.get(at) for at in positions)
        return sum(min(len(one.top), self._alternatives) for one in found if one is not None)

    def of(
        self, canvas: Sequence[int], text: Text, first: int, offset: int, end: bool = False
    ) -> list[TokenLogProb]:
        """The tokens of a text of the canvas from the ``first`` on, and with ``end`` the end token
        that ended it; the text begins at the character ``offset`` of the answer.
        """
        found = [
            self._of(at, token, offset)
            for at, token in zip(text.positions[first:], text.tokens_from(first), strict=True)
        ]
        if end and text.end is not None:
            size = len(text.text)
            last = self._tokenizer.token(canvas[text.end])._replace(start=size, end=size)
            found.append(self._of(text.end, last, offset))
        return found

    def _of(self, at: int, token: Token, offset: int) -> TokenLogProb:
        found = self._written.get(at)
        top = () if found is None else found.top[: self._alternatives]
        tokens = tuple((self._tokenizer.token(id_), log_p) for id_, log_p in top)
        return TokenLogProb(token, offset + token.start, found, tokens)


def given_tokens(
    tokenizer: TextTokenizer, ids: Sequence[int], log_p: Sequence[float | None], text: str
) -> list[TokenLogProb]:
    """The tokens of a given text; ``log_p`` is None where a token has no estimate."""
    given = [None if at is None else LogProbs(None, at, ()) for at in log_p]
    tokens = tokenizer.tokens_of(ids, text)
    return [TokenLogProb(t, t.start, of, ()) for t, of in zip(tokens, given, strict=True)]


def finite(log_p: float) -> float:
    """A log-probability as JSON can hold it: minus infinity is -9999, as in OpenAI's API."""
    return max(log_p, -9999.0)


def by_label(token: TokenLogProb) -> dict[str, float]:
    """The likeliest tokens by name, and the token itself where it is not among them. Where several
    share a text, the token itself keeps it, or else the likeliest; the others are named by their
    ids.
    """
    own, found = token.token, dict[str, float]()
    for other, log_p in token.top:
        label = own.label if other.id == own.id else other.label
        if label in found or (label == own.label and other.id != own.id):
            label = f"token_id:{other.id}"
        found[label] = finite(log_p)
    if token.logprobs is not None:
        found.setdefault(own.label, finite(token.logprobs.log_p))
    return found
