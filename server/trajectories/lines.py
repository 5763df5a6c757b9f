"""Where the tokens of a text stand in a picture: each has one place, that of the last state."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageFont

from server.trajectories.replay import Frame, Replay

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SERIF, SANS = "DejaVuSerif.ttf", "DejaVuSans.ttf"
SIZE, LINE, MARGIN, BLANK = 20, 34, 28, 6  # pixels at scale 1
MASK_WIDTH = 34
SMALLEST = 9  # size of a text that is wider than its place
WIDE = 0x2E80  # the first of the characters between which a line may end
END_SIGN = "\N{END OF PROOF}"


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one position: left and top of its line, and its width."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Page:
    """Places of the positions of a canvas, None for those that are not drawn, and the height."""

    slots: list[Slot | None]
    height: int


@dataclass(frozen=True, slots=True)
class Word:
    """The token of a position: its text, whether it is a mask or was given, and the change."""

    text: str
    kind: str
    op: str
    blank: bool
    breaks: bool


def words(replay: Replay, frame: Frame, editable: Sequence[int]) -> Iterator[Word | None]:
    """Each position of a frame; None for those after the end of the text and special given ones."""
    ended = False
    for at, (id_, text) in enumerate(zip(frame.ids, frame.texts, strict=True)):
        masked, given = id_ == replay.mask, not editable[at]
        if ended or (given and text.startswith("<") and text.endswith(">")):
            yield None
            continue
        ended = not given and id_ in replay.ends
        kind = "mask" if masked else "given" if given else "set"
        shown_text = END_SIGN if ended else "" if masked else word_of(text)
        blank = masked or ended or text[:1].isspace()
        breaks = "\n" in text and not masked
        yield Word(shown_text, kind, frame.ops.get(at, ""), blank, breaks)


def page_of(replay: Replay, last: Frame, editable: Sequence[int], width: int, scale: float) -> Page:
    """The places by a replay's last frame. Lines end between words, where they are short enough."""
    font, margin, line = font_of(SERIF, SIZE * scale), MARGIN * scale, LINE * scale
    slots: list[Slot | None] = [None] * len(last.ids)
    x, y = margin, margin / 2
    for group in _groups(list(words(replay, last, editable))):
        wides = [_wide(word, font, scale, width - 2 * margin) for _, word in group]
        if group[0][1].breaks:
            x, y = margin, y + line
        elif group[0][1].blank and x > margin:
            x += BLANK * scale
        if x + sum(wides) > width - margin and x > margin:
            x, y = margin, y + line
        for (at, _), wide in zip(group, wides, strict=True):
            if x + wide > width - margin and x > margin:
                x, y = margin, y + line
            slots[at] = Slot(x, y, wide)
            x += wide
    return Page(slots, int(y + line + margin / 2))


def _groups(found: list[Word | None]) -> Iterator[list[tuple[int, Word]]]:
    """Positions between which no line ends."""
    group: list[tuple[int, Word]] = []
    for at, word in enumerate(found):
        if word is None:
            continue
        if group and (word.blank or word.breaks or _parts(group[-1][1].text, word.text)):
            yield group
            group = []
        group.append((at, word))
    if group:
        yield group


def _parts(before: str, after: str) -> bool:
    """Whether a line may end between two texts without a blank."""
    return ord(before[-1:] or "a") >= WIDE or ord(after[:1] or "a") >= WIDE


def _wide(word: Word, font: Font, scale: float, most: float) -> float:
    wide = MASK_WIDTH * scale if word.kind == "mask" else width_of(font, word.text)
    return min(wide, most)


def fitting(name: str, size: float, text: str, width: float) -> Font:
    """A font in which a text is at most as wide as its place, unless it would be unreadable."""
    font = font_of(name, size)
    wide = width_of(font, text)
    return font if wide <= width + 1 else font_of(name, max(SMALLEST, size * width / wide))


def shortened(font: Font, text: str, width: float) -> str:
    """The beginning of a text that is at most as wide as its place."""
    while text and width_of(font, text) > width + 2:
        text = text[:-1]
    return text


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Font:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size)


def font_of(name: str, size: float) -> Font:
    """A font of the machine's, or the one that comes with the library (Latin letters only)."""
    return _font(name, max(1, round(size)))


@lru_cache(maxsize=1 << 14)
def width_of(font: Font, text: str) -> float:
    """Pixels that a text takes."""
    return font.getlength(text)


def shown(text: str) -> str:
    """A text in one line: each stretch of blanks is one, and what cannot be drawn is a sign."""
    if text.isprintable():
        return text
    signs = (" " if c.isspace() else "\ufffd" if _unseen(c) else c for c in text)
    return " ".join("".join(signs).split())


def _unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Cn")


@lru_cache(maxsize=1 << 14)
def word_of(text: str) -> str:
    """The text of a token as it is drawn."""
    return shown(text[:1024]).strip()[:64]
