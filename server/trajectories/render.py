"""Trajectories as pictures: a moving one (GIF), or states of the way on one sheet (PNG)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from server.trajectories.replay import Film, Frame

Pen = ImageDraw.ImageDraw
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Sheet = Callable[[Film, Sequence[Frame]], Image.Image]
"""Draws a frame of every choice of a film of images."""

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
FILM = 9  # of an image
TICK, REST = 90, 2500  # milliseconds of a frame, and of the last one


def moving(films: Sequence[Film], sheet: Sheet, max_frames: int) -> bytes:
    """A GIF of at most so many frames, all films at the same share of their steps."""
    count = min(max_frames, max(film.length for film in films))
    pictures = _pictures(films, count, sheet)
    # one palette for all: what does not change from frame to frame then costs nothing
    some = [pictures[i * (count - 1) // 7] for i in range(8)]
    palette = _joined(some, down=True).quantize(64)
    reduced = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    out = io.BytesIO()
    times = [TICK] * (count - 1) + [REST]
    reduced[0].save(
        out, "GIF", save_all=True, append_images=reduced[1:], duration=times, loop=0, disposal=1
    )
    return out.getvalue()


def still(films: Sequence[Film], sheet: Sheet) -> bytes:
    """A PNG of some states, from the first to the last, one below the other."""
    most = FILM if films[0].grid is not None else STATES
    pictures = _pictures(films, min(most, max(film.length for film in films)), sheet)
    whole = _joined(pictures, down=True)
    out = io.BytesIO()
    whole.save(out, "PNG", optimize=True)
    return out.getvalue()


def size_of(films: Sequence[Film], frames: int) -> int:
    """Pixels that so many frames will take, about; never too few."""
    wide, high = 0, 0
    for film in films:
        positions = max(map(len, film.editable))
        per_line = (WIDTHS[len(films)] - 2 * MARGIN) // 80
        if film.grid is None:
            high = max(high, len(film.editable) * (positions // per_line + 3) * LINE)
            wide += WIDTHS[len(films)]
        else:
            side = max(240, film.grid.width, film.grid.height)
            high, wide = max(high, side * len(film.editable)), wide + side * 4
    return wide * high * frames


def _pictures(films: Sequence[Film], count: int, sheet: Sheet) -> list[Image.Image]:
    """So many states of all films side by side; each film's pictures are equally large."""
    columns = []
    for film in films:
        last = film.length - 1
        wanted = [round(i * last / max(1, count - 1)) for i in range(count)]
        choices = [list(film.frames(i, wanted)) for i in range(len(film.editable))]
        drawn = [
            _headed(
                film,
                frames,
                sheet(film, frames) if film.grid else _text(film, frames, WIDTHS[len(films)]),
            )
            for frames in zip(*choices, strict=True)
        ]
        columns.append(drawn)
    rows = [_joined(row) for row in zip(*columns, strict=True)]
    width, height = max(p.width for p in rows), max(p.height for p in rows)
    return [_on_paper(p, width, height) for p in rows]


def _headed(film: Film, frames: Sequence[Frame], body: Image.Image) -> Image.Image:
    """What was asked for and how far it is, above a picture."""
    page = Image.new("RGB", (max(body.width, 240), body.height + HEAD + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    place = "final" if frames[0].final else f"step {frames[0].step}"
    pen.text((MARGIN, MARGIN // 2), f"{film.title} · {place}", SOFT, _font("DejaVuSans.ttf", 14))
    page.paste(body, (0, HEAD + MARGIN // 2))
    return page


def _text(film: Film, frames: Sequence[Frame], width: int) -> Image.Image:
    """Canvases of text, one below the other; each as high as its longest state may be."""
    font = _font("DejaVuSerif.ttf", SIZE)
    pages = []
    for frame, editable in zip(frames, film.editable, strict=True):
        laid, height = _laid_out(film, frame, editable, width, font)
        page = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(page)
        for x, y, wide, word, kind, op in laid:
            _word(pen, (x, y, wide), word, kind, op, font)
        pages.append(page)
    return _joined(pages, down=True)


Laid = tuple[float, float, float, str, str, str]


def _laid_out(
    film: Film, frame: Frame, editable: Sequence[bool], width: int, font: Font
) -> tuple[list[Laid], int]:
    """Where each token stands, (x, y, width, text, kind, op), and the height of all."""
    laid: list[Laid] = []
    x, y = float(MARGIN), float(MARGIN // 2)
    ended = False
    for at, (id_, text) in enumerate(zip(frame.ids, frame.texts, strict=True)):
        if ended:
            break  # behind the end of a text nothing is shown
        masked, given = id_ == film.mask, not editable[at]
        ended = not given and id_ in film.ends
        if given and text.startswith("<") and text.endswith(">"):
            continue
        word = "∎" if ended else "" if masked else text.strip()[:64]
        blank = 6 if masked or text[:1].isspace() or ended else 0
        wide = float(MASK_WIDTH) if masked else font.getlength(word)
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


def _joined(pictures: Sequence[Image.Image], down: bool = False) -> Image.Image:
    """Pictures in a row, or one below the other."""
    if len(pictures) == 1:
        return pictures[0]
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    size = (max(widths), sum(heights)) if down else (sum(widths), max(heights))
    whole = Image.new("RGB", size, PAPER)
    at = 0
    for picture in pictures:
        whole.paste(picture, (0, at) if down else (at, 0))
        at += picture.height if down else picture.width
    return whole


def _on_paper(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(picture, (0, 0))
    return page


@lru_cache(maxsize=8)
def _font(name: str, size: int) -> Font:
    """A font of the machine's, or the one that comes with the library (Latin letters only)."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size)
