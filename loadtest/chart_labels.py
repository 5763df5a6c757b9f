"""Places the labels of points so that they cover neither each other nor points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform

SIZE = 8.5
POINT, LINE = 5.0, 1.5  # half the side of the square of a point, and of a piece of a line
PIECES = 12  # of the line between two points
WEIGHT = 100.0  # of covering points and texts, against covering lines
SIDES = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)])
DISTANCES = (5, 9, 14, 20, 27)


@dataclass(frozen=True)
class Label:
    """A point in data coordinates, and its label; the text may be empty."""

    x: float
    y: float
    text: str
    colour: str


def place(
    axes: Axes,
    labels: Sequence[Label],
    texts: Sequence[Text],
    lines: Sequence[Sequence[tuple[float, float]]],
    dpi: float,
) -> None:
    """Draw the labels, each at the nearest free place inside the axes. If none is free, the place
    where it covers least is taken. The layout of the figure must be final.

    Args:
        axes: where the points are.
        labels: of all points; those without text only take room.
        texts: already drawn, which labels must not cover.
        lines: points of lines, which labels rather not cover.
        dpi: of the figure.
    """
    scale = dpi / 72
    to_pixels = axes.transData.transform
    points = np.array([to_pixels((label.x, label.y)) for label in labels]).reshape(-1, 2)
    taken = np.concatenate([_squares(points, POINT * scale), *map(_box_of, texts)])
    crossed = [_pieces(to_pixels(line)) for line in lines if len(line) > 1]
    on_lines = _squares(np.concatenate([np.empty((0, 2)), *crossed]), LINE * scale)
    (inside,) = _box_of(axes)
    for label, point in zip(labels, points, strict=True):
        if not label.text:
            continue
        text = axes.text(0, 0, label.text, size=SIZE, color=label.colour)
        text.set(transform=IdentityTransform(), in_layout=False, va="bottom")
        size = np.array(text.get_window_extent().size)
        spots = _spots(point, size, scale)
        cost = WEIGHT * _shared(spots, taken) + _shared(spots, on_lines)
        cost += WEIGHT * (np.prod(spots[:, 2:] - spots[:, :2], 1) - _shared(spots, inside[None]))
        best = spots[int(np.argmin(np.round(cost, 3)))]
        text.set_position((best[0], best[1]))
        taken = np.concatenate([taken, best[None]])


def _box_of(drawn: Axes | Text) -> np.ndarray:
    """Left, bottom, right and top in pixels, [1, 4]."""
    return np.array([drawn.get_window_extent().extents])


def _squares(centres: np.ndarray, half: float) -> np.ndarray:
    return np.concatenate([centres - half, centres + half], 1)


def _pieces(line: np.ndarray) -> np.ndarray:
    """Points along a line, [N, 2]."""
    at = np.linspace(0, len(line) - 1, PIECES * (len(line) - 1) + 1)
    known = np.arange(len(line))
    return np.stack([np.interp(at, known, line[:, i]) for i in (0, 1)], 1)


def _spots(point: np.ndarray, size: np.ndarray, scale: float) -> np.ndarray:
    """Boxes for a label around its point, nearest first, [N, 4]."""
    corners = [point + scale * away * SIDES + (SIDES - 1) / 2 * size for away in DISTANCES]
    low = np.concatenate(corners)
    return np.concatenate([low, low + size], 1)


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each box shares with the others, [N]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), 2).sum(1)
