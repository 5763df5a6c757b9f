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
    tokenizer, canvas, given = (
        state.checkpoint.tokenizer,
        state.checkpoint.info.max_length,
        [*texts],
    )
    limits.check_prompt(field, sum(map(tokenizer.at_least, given)), 1, canvas, "at least ")
    limits.check_texts(field, given, canvas)


def ids_of(state: State, given: str | list[int], field: str, masks: str | None = "") -> list[int]:
    """Ids of a text that opens a canvas; characters get the start token in front.

    Raises:
        ApiError: 400, see ``checked_ids``, or more ids than the canvas has positions.
    """
    canvas = state.checkpoint.info.max_length
    if isinstance(given, str):
        check_bytes(state, [given], field)
        ids = state.checkpoint.tokenizer.encode(given)
    else:
        ids = given
    if len(ids) > canvas:
        limits.check_prompt(field, len(ids), 1, canvas)
    return checked_ids(state, ids, field, masks) if ids is given else ids
