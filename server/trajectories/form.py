"""The form of a picture, measured: sizes and places of its states, and how many there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from server.trajectories.furniture import FOOT, HEAD
from server.trajectories.lines import MARGIN, Page, page_of
from server.trajectories.replay import Frame, Replay
from server.trajectories.themes import Theme

State = list[list[Frame]]
"""For each replay the frames of its choices."""


WIDTHS = {1: 760, 2: 560, 3: 480, 4: 420}
LEAST = 240  # width of a column
SCALES = (1.0, 0.85, 0.7, 0.5)
FULL = 48  # frames for which a picture is rather drawn smaller
FEWEST = 24  # frames below which a longer run is refused
MAX_TOKENS = 1 << 19
"""Of all canvases and frames of a picture; laying out so many takes a second or two."""


class Sheet(Protocol):
    """How replays of images are drawn."""

    def size(self, replay: Replay) -> tuple[int, int]:
        """Width and height of the picture of all choices."""
        ...

    def __call__(self, replay: Replay, frames: Sequence[Frame]) -> Image.Image:
        """A frame of every choice."""
        ...


class TooMuch(ValueError):
    """More than a limit: what is counted, how many there are, and how many there may be."""

    def __init__(self, what: str, asked: int, limit: int) -> None:
        super().__init__(f"{what} is {asked}; the limit is {limit}")


@dataclass(frozen=True)
class Form:
    """How replays are drawn.

    Attributes:
        replays: side by side.
        sheet: draws images.
        theme: colours.
        by_time: all at the same time since each was queued, rather than the same share of steps.
        scale: of texts.
    """

    replays: Sequence[Replay]
    sheet: Sheet
    theme: Theme
    by_time: bool = False
    scale: float = 1.0

    def column(self, replay: Replay) -> int:
        """Width of a replay."""
        if replay.grid is not None:
            return max(self.sheet.size(replay)[0], LEAST)
        return round(WIDTHS[len(self.replays)] * self.scale)


def fitted(
    form: Form, wanted: int, max_pixels: int, fewest: int = FEWEST
) -> tuple[Form, int, tuple[int, int]]:
    """The largest scale with enough frames, how many, and width and height of each.

    Raises:
        TooMuch: even few and small ones are too many.
    """
    replays = form.replays
    tokens = sum(len(editable) for replay in replays for editable in replay.editable)
    affordable = min(wanted, MAX_TOKENS // tokens)
    if affordable < min(wanted, fewest):
        what = f"the number of tokens to draw, positions in {wanted} frames,"
        raise TooMuch(what, wanted * tokens, MAX_TOKENS)
    width = height = 1
    for scale in SCALES:
        form = replace(form, scale=scale)
        width, height = _size(form)
        count = min(affordable, max_pixels // (width * (height + FOOT)))
        if count >= min(affordable, fewest if scale == SCALES[-1] else max(FULL, fewest)):
            return form, count, (width, height)
    least = width * (height + FOOT) * min(affordable, fewest)
    raise TooMuch("the picture's size in pixels, all frames,", least, max_pixels)


def _size(form: Form) -> tuple[int, int]:
    """Width and height that every state fits in, without the foot."""
    width, height = 0, 0
    for replay, pages in zip(form.replays, pages_of(form), strict=True):
        width += form.column(replay)
        high = form.sheet.size(replay)[1] if replay.grid else sum(page.height for page in pages)
        height = max(height, high)
    return width, height + HEAD + MARGIN


def pages_of(form: Form) -> list[list[Page]]:
    """For each replay of texts the places of each choice's tokens."""
    return [
        [
            page_of(replay, replay.last(i), editable, form.column(replay), form.scale)
            for i, editable in enumerate(replay.editable)
            if replay.grid is None
        ]
        for replay in form.replays
    ]


def numbers_of(form: Form, count: int) -> Iterator[list[int]]:
    """The frame of each replay in each of so many states."""
    times = [replay.times for replay in form.replays]
    if form.by_time and all(times):
        last = max(one[-1] for one in times)
        for i in range(count):
            now = last * i / max(1, count - 1)
            yield [max(0, bisect_right(one, now) - 1) for one in times]
        return
    for i in range(count):
        yield [round(i * (replay.length - 1) / max(1, count - 1)) for replay in form.replays]


def states_of(form: Form, numbers: Sequence[Sequence[int]]) -> Iterator[State]:
    """The states in which each replay is at the given numbers of its frames."""
    columns = []
    for n, replay in enumerate(form.replays):
        wanted = [one[n] for one in numbers]
        choices = [replay.frames(i, wanted) for i in range(len(replay.editable))]
        columns.append(zip(*choices, strict=True))
    for state in zip(*columns, strict=True):
        yield [list(frames) for frames in state]
