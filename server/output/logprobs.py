"""Log-probabilities of the tokens of a text, each as of the step that wrote it last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.tokenization.tokenizer import TextTokenizer
from server.engine.events import LogProbs, Step


@dataclass(frozen=True)
class TokenLogProb:
    """One token of a text.

    Attributes:
        id: the token.
        text: as it stands inside a text.
        offset, end: characters of the text in front of it, and with it.
        told: what the model said of it; None for a token that was given.
        top: text and log-probability of the likeliest tokens, as many as were asked for.
    """

    id: int
    text: str
    offset: int
    end: int
    told: LogProbs | None
    top: tuple[tuple[str, float], ...]


class WrittenLogProbs:
    """Follows one canvas and keeps, for each position, what was said when it was last written."""

    def __init__(self, tokenizer: TextTokenizer, alternatives: int) -> None:
        """Nothing is written yet."""
        self._tokenizer, self._alternatives = tokenizer, alternatives
        self._told: dict[int, LogProbs] = {}

    def follow(self, step: Step) -> None:
        """Note what a step wrote."""
        for change in step.changes:
            if change.logprobs is not None:
                self._told[change.position] = change.logprobs

    def of(
        self, canvas: Sequence[int], positions: Sequence[int], offset: int
    ) -> list[TokenLogProb]:
        """The tokens at some positions; the first begins at a character of the text."""
        found = []
        for at in positions:
            id_, told = canvas[at], self._told.get(at)
            top = () if told is None else told.top[: self._alternatives]
            texts = tuple((self._tokenizer.piece(i), log_p) for i, log_p in top)
            end = offset + len(self._tokenizer.text_piece(id_))
            found.append(TokenLogProb(id_, self._tokenizer.piece(id_), offset, end, told, texts))
            offset = end
        return found


def given_tokens(
    tokenizer: TextTokenizer, ids: Sequence[int], log_p: Sequence[float | None], text: str
) -> list[TokenLogProb]:
    """The tokens of a text that was given; None as a log-probability tells nothing of a token."""
    found, offset = [], 0
    # the blank that tokenizers put in front of a word is not shown at the start of a text
    hidden = max(0, sum(len(tokenizer.text_piece(id_)) for id_ in ids) - len(text))
    for id_, at in zip(ids, log_p, strict=True):
        told = None if at is None else LogProbs(None, at, ())
        size = len(tokenizer.text_piece(id_))
        cut = min(hidden, size)
        hidden, end = hidden - cut, offset + size - cut
        found.append(TokenLogProb(id_, tokenizer.piece(id_)[cut:], offset, end, told, ()))
        offset = end
    return found


def finite(log_p: float) -> float:
    """JSON has no minus infinity: what cannot be is OpenAI's -9999."""
    return max(log_p, -9999.0)


def with_itself(token: TokenLogProb) -> Iterable[tuple[str, float]]:
    """The likeliest tokens, and the token itself where it is not among them."""
    yield from ((text, finite(log_p)) for text, log_p in token.top)
    if token.told is not None and token.text not in dict(token.top):
        yield token.text, finite(token.told.log_p)
