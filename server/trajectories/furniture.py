"""Titles above the canvases of a picture, and its foot with caption and legend."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from server.trajectories.lines import MARGIN, SANS, font_of, shown, width_of
from server.trajectories.replay import Frame, Replay
from server.trajectories.themes import Theme

HEAD, FOOT = 30, 58
PRODUCT = "xdlm-serve"
LEGEND = (
    ("masked", ""),
    ("unmasked", "unmask"),
    ("refined", "refine"),
    ("masked again", "remask"),
)
SMALL, USUAL = 12, 14
SWATCH = (18, 10)


def draw_head(
    pen: ImageDraw.ImageDraw,
    where: tuple[int, int],
    replay: Replay,
    frame: Frame,
    width: int,
    theme: Theme,
) -> None:
    """Settings of a run, how far it is, and when; a finished one has a sign."""
    parts = [shown(replay.title), "final" if frame.final else f"step {frame.step}"]
    if frame.elapsed is not None:
        parts.append(seconds(frame.elapsed))
    done = replay.length > 1 and frame.number == replay.length - 1
    text = cut(" · ".join(parts), width - 2 * MARGIN, USUAL)
    left, top = where[0] + MARGIN, where[1] + MARGIN // 2
    colour = theme.colours["unmask"][0] if done else theme.soft
    if done:
        pen.ellipse((left - 12, top + 5, left - 5, top + 12), colour)
    pen.text((left, top), text, colour, font_of(SANS, USUAL))


def draw_foot(page: Image.Image, replays: Sequence[Replay], theme: Theme) -> None:
    """Prompt, steps, seconds and seed, the product's name, and a legend."""
    pen, font = ImageDraw.Draw(page), font_of(SANS, SMALL)
    top = page.height - FOOT
    pen.line((MARGIN, top, page.width - MARGIN, top), theme.mask, 1)
    name = width_of(font, PRODUCT)
    right = page.width - MARGIN - name
    pen.text((right, top + 8), PRODUCT, theme.ink, font)
    told = cut(caption(replays), right - 2 * MARGIN, SMALL)
    pen.text((MARGIN, top + 8), told, theme.soft, font)
    x = float(MARGIN)
    for text, op in LEGEND:
        edge, fill = theme.colours[op] if op else (theme.mask, theme.mask)
        if x + SWATCH[0] + 6 + width_of(font, text) > page.width - MARGIN:
            break
        box = (x, top + 33, x + SWATCH[0], top + 33 + SWATCH[1])
        pen.rounded_rectangle(box, 3, fill, edge)
        pen.text((x + SWATCH[0] + 6, top + 30), text, theme.soft, font)
        x += SWATCH[0] + 22 + width_of(font, text)


def caption(replays: Sequence[Replay]) -> str:
    """Prompt, settings, time and seed in a line."""
    first = replays[0]
    parts = [f"\N{LEFT DOUBLE QUOTATION MARK}{shown(first.prompt)}\N{RIGHT DOUBLE QUOTATION MARK}"]
    if not first.prompt:
        parts = [shown(first.model)[:40]]
    if len(replays) == 1:
        parts.append(first.title)
        if first.times:
            parts.append(seconds(first.times[-1]))
    if first.seed is not None:
        parts.append(f"seed {first.seed}")
    return " · ".join(parts)


def seconds(elapsed: float) -> str:
    """A time in milliseconds for people."""
    return f"{elapsed / 1000:.2f} s"


def cut(text: str, width: float, size: int) -> str:
    """A text that is at most so wide; its middle is left out."""
    font = font_of(SANS, size)
    if width_of(font, text) <= width:
        return text
    for kept in range(min(len(text), 400) - 1, 1, -1):
        half = kept // 2
        short = f"{text[: kept - half].rstrip()}…{text[len(text) - half :].lstrip()}"
        if width_of(font, short) <= width:
            return short
    return ""
