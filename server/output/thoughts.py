"""Thoughts of a model before its answer, told apart by special tokens around them.

Gemma 4 and DiffusionGemma write ``<|channel>thought``, a line break, their thoughts and
``<channel|>`` before the answer (https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from server.output.text import Text

CHANNEL = "thought\n"
"""Name of the channel, which stands first in it and is no thought."""


@dataclass(frozen=True)
class Thoughts:
    """A part of an answer that is no text of it: what the model thought, or more of that."""

    text: str


class Divided(NamedTuple):
    """A text by what it is for."""

    thoughts: str
    content: str


def divided(text: Text, tags: tuple[int, int], size: int | None = None) -> Divided:
    """The first ``size`` characters of a text, all where None, by the special tokens ``tags``
    before and after thoughts. Thoughts without an end are thoughts to the end of the text.

    Of a longer text both parts begin with those of a shorter one.
    """
    whole = text.text if size is None else text.text[:size]
    begin, end = tags
    thoughts, content, at, inside = "", "", 0, False
    marks = [t for t in text.tokens_from() if t.id in tags]
    edges = [(min(t.start, len(whole)), t.id) for t in marks]
    for edge, id_ in [*edges, (len(whole), None)]:
        piece = whole[at:edge]
        if inside:
            thoughts += _unnamed(piece)
        else:
            content += piece
        at = edge
        inside = id_ == begin or (inside and id_ != end)
    return Divided(thoughts, content)


def _unnamed(channel: str) -> str:
    """A channel without its name, which may not be complete yet."""
    return "" if CHANNEL.startswith(channel) else channel.removeprefix(CHANNEL)
