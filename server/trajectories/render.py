"""Trajectories as pictures: a moving one (GIF), or states of the way on one sheet (PNG). Everything
is measured before anything is drawn, and one state is drawn at a time.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw

from server.trajectories.form import Form, State, fitted, numbers_of, pages_of, states_of
from server.trajectories.furniture import FOOT, HEAD, draw_foot, draw_head
from server.trajectories.lines import (
    LINE,
    MARGIN,
    SERIF,
    SIZE,
    Page,
    Slot,
    Word,
    fitting,
    shortened,
    words,
)

Pen = ImageDraw.ImageDraw


@dataclass(frozen=True)
class Picture:
    """A drawn picture, and a sentence about what was left out to make it fit; empty if nothing."""

    data: bytes
    note: str


STATES = 5  # of a text on a sheet
IMAGE_STATES = 9  # of an image
TICK, REST = 90, 3500  # milliseconds of a frame, and of the last one
MASK_HEIGHT = 17
SAMPLE = 1 << 18  # pixels of a frame that the palette is made from


def moving(form: Form, max_frames: int, max_pixels: int) -> Picture:
    """A GIF. Where all frames take too many pixels, some are left out and texts are drawn smaller.

    Raises:
        TooMuch: too many pixels in the fewest frames, or tokens to lay out.
    """
    longest = max(replay.length for replay in form.replays)
    form, count, sizes = fitted(form, min(max_frames, longest), max_pixels)
    states = list(numbers_of(form, count))
    # one palette for all: what does not change from frame to frame then costs nothing
    sampled = {i * (count - 1) // 7 for i in range(8)}
    pages = pages_of(form)
    some = [
        _reduced(_drawn(form, pages, state, sizes))
        for n, state in enumerate(states_of(form, states))
        if n in sampled
    ]
    whole = Image.new("RGB", (some[0].width, sum(one.height for one in some)), form.theme.paper)
    for n, one in enumerate(some):
        whole.paste(one, (0, n * one.height))
    palette = whole.quantize(64)
    reduced = (
        _drawn(form, pages, state, sizes).quantize(palette=palette, dither=Image.Dither.NONE)
        for state in states_of(form, states)
    )
    out = io.BytesIO()
    times = [TICK] * (count - 1) + [REST]
    next(reduced).save(
        out, "GIF", save_all=True, append_images=reduced, duration=times, loop=0, disposal=1
    )
    return Picture(out.getvalue(), _note(count, longest, form))


def still(form: Form, max_pixels: int) -> Picture:
    """A PNG of some states, from the first to the last, one below the other.

    Raises:
        TooMuch: see ``moving``.
    """
    most = IMAGE_STATES if form.replays[0].grid is not None else STATES
    count = min(most, max(replay.length for replay in form.replays))
    form, count, (width, height) = fitted(form, count, max_pixels, count)
    whole = Image.new("RGB", (width, height * count + FOOT), form.theme.paper)
    pages = pages_of(form)
    for n, state in enumerate(states_of(form, list(numbers_of(form, count)))):
        _draw(whole, n * height, form, pages, state)
    draw_foot(whole, form.replays, form.theme)
    out = io.BytesIO()
    whole.save(out, "PNG")
    return Picture(out.getvalue(), "")


def _note(count: int, longest: int, form: Form) -> str:
    parts = [f"{count} of {longest} states"] if count < longest else []
    if form.scale < 1:
        parts.append(f"texts at {form.scale:.0%} of their size")
    return f"To fit, the picture has {' and '.join(parts)}." if parts else ""


def _drawn(form: Form, pages: list[list[Page]], state: State, size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", (size[0], size[1] + FOOT), form.theme.paper)
    _draw(page, 0, form, pages, state)
    draw_foot(page, form.replays, form.theme)
    return page


def _reduced(page: Image.Image) -> Image.Image:
    """A page with fewer pixels, of the same colours."""
    by = max(1.0, (page.width * page.height / SAMPLE) ** 0.5)
    size = (max(1, int(page.width / by)), max(1, int(page.height / by)))
    return page if by == 1 else page.resize(size, Image.Resampling.NEAREST)


def _draw(page: Image.Image, top: int, form: Form, pages: list[list[Page]], state: State) -> None:
    """Films side by side; above each what was asked for and how far it is."""
    pen, left = ImageDraw.Draw(page), 0
    for replay, laid, frames in zip(form.replays, pages, state, strict=True):
        draw_head(pen, (left, top), replay, frames[0], form.column(replay), form.theme)
        below = top + HEAD + MARGIN // 2
        if replay.grid is not None:
            page.paste(form.sheet(replay, frames), (left, below))
        for one, frame, editable in zip(laid, frames, replay.editable, strict=False):
            found = words(replay, frame, editable)
            for slot, word in zip(one.slots, found, strict=True):
                if slot is not None and word is not None and slot.width:
                    _word(pen, (left, below), slot, word, form)
            below += one.height
        left += form.column(replay)


def _word(pen: Pen, origin: tuple[int, int], slot: Slot, word: Word, form: Form) -> None:
    """One token; besides its colour each change has a line of its own."""
    theme, scale = form.theme, form.scale
    x, y, wide = origin[0] + slot.x, origin[1] + slot.y, slot.width
    if word.kind == "mask":
        right = max(x + 1, x + wide - 2)
        box = (x, y + 6 * scale, right, y + (6 + MASK_HEIGHT) * scale)
        edge, fill = theme.colours[word.op] if word.op else (theme.mask, theme.mask)
        pen.rounded_rectangle(box, min(4, (right - x) / 2), fill, edge)
        if word.op and wide > 12:
            pen.line((x + 4, box[1] + 3, right - 4, box[3] - 3), edge, 2)
        return
    colour = theme.soft if word.kind == "given" else theme.ink
    bottom = y + (LINE - 7) * scale
    if word.op:
        colour, fill = theme.colours[word.op]
        pen.rounded_rectangle((x - 1, y + 1, x + wide + 1, bottom + 1), 3, fill)
        for line in range(2 if word.op == "refine" else 1):
            pen.line((x, bottom - 3 * line, x + wide, bottom - 3 * line), colour, 1)
    font = fitting(SERIF, SIZE * scale, word.text, wide)
    pen.text((x, y + 1), shortened(font, word.text, wide), colour, font)
