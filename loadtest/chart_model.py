"""Charts of the report as data, independent of the plotting library.

``charts_png.py`` draws them with matplotlib, ``charts_plotly.py`` with plotly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Style = Literal["line", "step", "bar", "mark", "guide"]


@dataclass(frozen=True)
class Series:
    """One line, one set of points, or one layer of stacked bars.

    Attributes:
        name: in the legend; an empty name is not listed.
        labels: at the points, or none.
        spread: half widths of intervals in y, or none.
        hollow: points that are drawn as rings, by index.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    colour: str
    style: Style = "line"
    labels: Sequence[str] = ()
    spread: Sequence[float] = ()
    hollow: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Axis:
    """An axis; ``ticks`` are the ticks of a logarithmic one, empty for the defaults."""

    title: str
    log: bool = False
    ticks: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        limit: an objective on the x or y axis, drawn as a line with these words.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    limit: tuple[Literal["x", "y"], float, str] | None = None


@dataclass(frozen=True)
class Heat:
    """A heat map with text in its cells; rows from the bottom up.

    Attributes:
        values: row by row; the colour scale is logarithmic.
        texts: label of each cell.
        good: cells that meet the objective.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    row_title: str
    column_title: str
    values: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]]
    good: Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Chart:
    """One figure: panels side by side, all of one kind.

    Attributes:
        name: of its file, without suffix.
        title: the question that it answers.
        note: how to read it.
    """

    name: str
    title: str
    note: str
    panels: Sequence[Panel | Heat]
    shared_y: bool = field(default=False)


RAMP = ("#f2a541", "#dd5e4f", "#a83279", "#5b3a9e", "#17255a")
LOADS = ("#0f8b8d", "#e07a1f", "#6a4c93", "#3a7d44", "#b23a48", "#4a4e69")
PHASES = {"late": "#b8bcc8", "queue": "#e9a23b", "denoise": "#3d6fb6", "stream": "#79c2a6"}
INK, GUIDE, LIMIT = "#22252b", "#9aa0aa", "#c0392b"


def ramp(count: int) -> list[str]:
    """``count`` colours in order, from fast (warm) to slow (dark)."""
    if count == 1:
        return [RAMP[2]]
    colours = []
    for i in range(count):
        at = i * (len(RAMP) - 1) / (count - 1)
        low = min(int(at), len(RAMP) - 2)
        parts = zip(_rgb(RAMP[low]), _rgb(RAMP[low + 1]), strict=True)
        mixed = (round(a + (at - low) * (b - a)) for a, b in parts)
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return colours


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
