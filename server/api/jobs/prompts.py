"""Texts given as characters or as token ids, to ids that the model may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.api.context import State
from server.api.jobs import limits
from server.http.errors import ApiError


@dataclass(frozen=True)
class Prompt:
    """Where a text is to be written.

    Attributes:
        ids: in front of it.
        suffix: ids behind it.
        hole: id of the positions in ``ids`` that are to be filled too, if there may be such.
        echo: its text, where that is to stand in front of the answer.
        start: how many of the first ids the tokenizer put there; they are no part of the text.
    """

    ids: list[int]
    suffix: Sequence[int] = ()
    hole: int | None = None
    echo: str | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """Positions that it takes."""
        return len(self.ids) + len(self.suffix)


def checked_ids(state: State, ids: list[int], field: str, masks: str | None = "") -> list[int]:
    """The ids themselves, if they are some.

    Args:
        state: of the application.
        ids: as given.
        field: of the body, to blame.
        masks: what to add where the mask id is refused; None lets it stand.

    Raises:
        ApiError: 400.
    """
    info = state.checkpoint.info
    if not all(0 <= id_ < info.vocab_size for id_ in ids):
        last = info.vocab_size - 1
        raise ApiError(400, f"{field}: token ids must lie between 0 and {last}", param=field)
    if masks is not None and info.mask_id in ids:
        raise ApiError(400, f"{field} holds the mask id {info.mask_id}{masks}", param=field)
    return ids


def check_bytes(state: State, texts: Iterable[str], field: str) -> None:
    """Texts that are too long for the canvas whatever their ids are, before time is spent on ids.

    Raises:
        ApiError: 400.
    """
    least = sum(map(state.checkpoint.tokenizer.at_least, texts))
    limits.check_prompt(field, least, 1, state.checkpoint.info.max_length, "at least ")


def ids_of(state: State, given: str | list[int], field: str, masks: str | None = "") -> list[int]:
    """Ids of a text that opens a canvas; characters get the start token in front.

    Raises:
        ApiError: 400, see ``checked_ids``, or more ids than the canvas has positions.
    """
    if isinstance(given, list):
        return checked_ids(state, given, field, masks)
    tokenizer, canvas = state.checkpoint.tokenizer, state.checkpoint.info.max_length
    check_bytes(state, [given], field)
    if len(given) > canvas and (count := tokenizer.count(given)) > canvas:
        limits.check_prompt(field, count, 1, canvas)
    return tokenizer.encode(given)
