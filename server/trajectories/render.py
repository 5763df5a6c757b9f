"""Trajectories as pictures: a moving one (GIF), or states of the way on one sheet (PNG). Everything
is measured before anything is drawn, and one state is drawn at a time.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from server.trajectories.replay import Frame, Replay

Pen = ImageDraw.ImageDraw
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
State = list[list[Frame]]
"""For each replay the frames of its choices."""


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


PAPER, INK, SOFT, MASK = "#ffffff", "#1b1a17", "#5f5b53", "#d5d0c6"
COLOURS = {
    "unmask": ("#17794a", "#dcf3e6"),
    "refine": ("#2457c9", "#dfe8fd"),
    "remask": ("#c22a3a", "#fbdfe1"),
}
SIZE, LINE, MARGIN, HEAD = 20, 34, 28, 30
MASK_WIDTH, MASK_HEIGHT = 34, 17
WIDTHS = {1: 760, 2: 560, 3: 480, 4: 420}
STATES = 5  # of a text on a sheet
IMAGE_STATES = 9  # of an image
LEAST = 240  # width of a column
TICK, REST = 90, 2500  # milliseconds of a frame, and of the last one
MAX_TOKENS = 1 << 19
"""Of all canvases and frames of a picture; laying out so many takes a second or two."""
SAMPLE = 1 << 18  # pixels of a frame that the palette is made from


def moving(replays: Sequence[Replay], sheet: Sheet, max_frames: int, max_pixels: int) -> bytes:
    """A GIF of at most so many frames, all replays at the same share of their steps.

    Raises:
        TooMuch: too many pixels in all frames, or tokens to lay out.
    """
    count = min(max_frames, max(replay.length for replay in replays))
    size = _measured(replays, count, sheet, max_pixels)
    # one palette for all: what does not change from frame to frame then costs nothing
    sampled = {i * (count - 1) // 7 for i in range(8)}
    some = [
        _reduced(_page(replays, state, sheet, size))
        for n, state in enumerate(_states(replays, count))
        if n in sampled
    ]
    whole = Image.new("RGB", (some[0].width, sum(one.height for one in some)), PAPER)
    for n, one in enumerate(some):
        whole.paste(one, (0, n * one.height))
    palette = whole.quantize(64)
    reduced = (
        _page(replays, state, sheet, size).quantize(palette=palette, dither=Image.Dither.NONE)
        for state in _states(replays, count)
    )
    out = io.BytesIO()
    times = [TICK] * (count - 1) + [REST]
    next(reduced).save(
        out, "GIF", save_all=True, append_images=reduced, duration=times, loop=0, disposal=1
    )
    return out.getvalue()


def still(replays: Sequence[Replay], sheet: Sheet, max_pixels: int) -> bytes:
    """A PNG of some states, from the first to the last, one below the other.

    Raises:
        TooMuch: see ``moving``.
    """
    most = IMAGE_STATES if replays[0].grid is not None else STATES
    count = min(most, max(replay.length for replay in replays))
    width, height = _measured(replays, count, sheet, max_pixels)
    whole = Image.new("RGB", (width, height * count), PAPER)
    for n, state in enumerate(_states(replays, count)):
        _draw(whole, n * height, replays, state, sheet)
    out = io.BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def _states(replays: Sequence[Replay], count: int) -> Iterator[State]:
    """So many states of all replays, evenly spread."""
    columns = []
    for replay in replays:
        last = replay.length - 1
        wanted = [round(i * last / max(1, count - 1)) for i in range(count)]
        choices = [replay.frames(i, wanted) for i in range(len(replay.editable))]
        columns.append(zip(*choices, strict=True))
    for state in zip(*columns, strict=True):
        yield [list(frames) for frames in state]


def _measured(
    replays: Sequence[Replay], count: int, sheet: Sheet, max_pixels: int
) -> tuple[int, int]:
    """Width and height that every state fits in."""
    tokens = count * sum(len(editable) for replay in replays for editable in replay.editable)
    if tokens > MAX_TOKENS:
        what = f"the number of tokens to draw, positions in {count} frames,"
        raise TooMuch(what, tokens, MAX_TOKENS)
    column, width, height = WIDTHS[len(replays)], 0, 0
    for replay in replays:
        wide, high = sheet.size(replay) if replay.grid else (column, 0)
        width, height = width + max(wide, LEAST), max(height, high)
    _check_pixels(width, height, count, max_pixels)
    font = _font("DejaVuSerif.ttf", SIZE)
    for state in _states(replays, count):
        for replay, frames in zip(replays, state, strict=True):
            if replay.grid is None:
                parts = zip(frames, replay.editable, strict=True)
                high = sum(_laid_out(replay, f, e, column, font)[1] for f, e in parts)
                height = max(height, high)
        _check_pixels(width, height, count, max_pixels)
    return width, height + HEAD + MARGIN


def _check_pixels(width: int, height: int, count: int, max_pixels: int) -> None:
    pixels = width * (height + HEAD + MARGIN) * count
    if pixels > max_pixels:
        raise TooMuch("the picture's size in pixels, all frames,", pixels, max_pixels)


def _page(
    replays: Sequence[Replay], state: State, sheet: Sheet, size: tuple[int, int]
) -> Image.Image:
    page = Image.new("RGB", size, PAPER)
    _draw(page, 0, replays, state, sheet)
    return page


def _reduced(page: Image.Image) -> Image.Image:
    """A page with fewer pixels, of the same colours."""
    by = max(1.0, (page.width * page.height / SAMPLE) ** 0.5)
    size = (max(1, int(page.width / by)), max(1, int(page.height / by)))
    return page if by == 1 else page.resize(size, Image.Resampling.NEAREST)


def _draw(
    page: Image.Image, top: int, replays: Sequence[Replay], state: State, sheet: Sheet
) -> None:
    """Films side by side; above each what was asked for and how far it is."""
    pen, column = ImageDraw.Draw(page), WIDTHS[len(replays)]
    head, font = _font("DejaVuSans.ttf", 14), _font("DejaVuSerif.ttf", SIZE)
    left = 0
    for replay, frames in zip(replays, state, strict=True):
        place = "final" if frames[0].final else f"step {frames[0].step}"
        title = f"{shown(replay.title)} · {place}"
        pen.text((left + MARGIN, top + MARGIN // 2), title, SOFT, head)
        below = top + HEAD + MARGIN // 2
        if replay.grid is not None:
            page.paste(sheet(replay, frames), (left, below))
            left += max(sheet.size(replay)[0], LEAST)
            continue
        for frame, editable in zip(frames, replay.editable, strict=True):
            laid, height = _laid_out(replay, frame, editable, column, font)
            for x, y, wide, word, kind, op in laid:
                _word(pen, (left + x, below + y, wide), word, kind, op, font)
            below += height
        left += max(column, LEAST)


def shown(text: str) -> str:
    """A text in one line: each stretch of blanks is one, and what cannot be drawn is a sign."""
    if text.isprintable():
        return text
    signs = (" " if c.isspace() else "\ufffd" if _unseen(c) else c for c in text)
    return " ".join("".join(signs).split())


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Cn")


Laid = tuple[float, float, float, str, str, str]


def _laid_out(
    replay: Replay, frame: Frame, editable: Sequence[int], width: int, font: Font
) -> tuple[list[Laid], int]:
    """Where each token stands, (x, y, width, text, kind, op), and the height of all."""
    laid: list[Laid] = []
    x, y = float(MARGIN), float(MARGIN // 2)
    ended = False
    for at, (id_, text) in enumerate(zip(frame.ids, frame.texts, strict=True)):
        if ended:
            break  # nothing is shown after the end of a text
        masked, given = id_ == replay.mask, not editable[at]
        ended = not given and id_ in replay.ends
        if given and text.startswith("<") and text.endswith(">"):
            continue
        word = "∎" if ended else "" if masked else _word_of(text)
        blank = 6 if masked or text[:1].isspace() or ended else 0
        wide = float(MASK_WIDTH) if masked else _width(font, word)
        if "\n" in text and not masked:
            x, y = MARGIN, y + LINE
        if x == MARGIN:
            blank = 0
        if x + blank + wide > width - MARGIN and x > MARGIN:
            x, y, blank = MARGIN, y + LINE, 0
        kind = "mask" if masked else "given" if given else "set"
        laid.append((x + blank, y, wide, word, kind, frame.ops.get(at, "")))
        x += blank + wide
    return laid, int(y) + LINE + MARGIN // 2


def _word(
    pen: Pen, where: tuple[float, float, float], word: str, kind: str, op: str, font: Font
) -> None:
    """One token; besides its colour each change has a line of its own."""
    x, y, wide = where
    if kind == "mask":
        box = (x, y + 6, x + wide - 2, y + 6 + MASK_HEIGHT)
        edge, fill = COLOURS[op] if op else (MASK, MASK)
        pen.rounded_rectangle(box, 4, fill, edge)
        if op:
            pen.line((x + 4, y + 9, x + wide - 6, y + 3 + MASK_HEIGHT), edge, 2)
        return
    colour = SOFT if kind == "given" else INK
    if op:
        colour, fill = COLOURS[op]
        pen.rounded_rectangle((x - 1, y + 1, x + wide + 1, y + LINE - 6), 3, fill)
        for line in range(2 if op == "refine" else 1):
            pen.line((x, y + LINE - 7 - 3 * line, x + wide, y + LINE - 7 - 3 * line), colour, 1)
    pen.text((x, y + 1), word, colour, font)


@lru_cache(maxsize=8)
def _font(name: str, size: int) -> Font:
    """A font of the machine's, or the one that comes with the library (Latin letters only)."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size)


@lru_cache(maxsize=1 << 14)
def _width(font: Font, word: str) -> float:
    return font.getlength(word)


@lru_cache(maxsize=1 << 14)
def _word_of(text: str) -> str:
    return shown(text[:1024]).strip()[:64]
