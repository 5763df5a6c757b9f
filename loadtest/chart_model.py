"""Charts of the report as data, independent of the plotting library.

``chart_drawing.py`` draws a panel with matplotlib; ``charts_png.py`` makes files of whole charts,
and ``charts_svg.py`` pictures for the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtest.intervals import Interval

Style = Literal["line", "step", "bar", "mark", "guide", "ring"]


@dataclass(frozen=True)
class Series:
    """One line, one set of points, or one layer of stacked bars.

    Attributes:
        name: in the legend; an empty name is not listed.
        labels: at the points, or none.
        intervals: of the points in y, None where there is none; or no list.
        repeats: values in y of the single repeats of each point, or no list.
        hollow: points that are drawn as rings, by index.
        hover: text that the page shows where the mouse points at a point, or no list.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    colour: str
    style: Style = "line"
    labels: Sequence[str] = ()
    intervals: Sequence[Interval | None] = ()
    repeats: Sequence[Sequence[float]] = ()
    hollow: frozenset[int] = frozenset()
    hover: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """An axis of a quantity that is never negative; ``ticks`` are the ticks of a logarithmic one,
    empty for the defaults.
    """

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
        values: row by row, NaN where there is no cell; the colour scale is logarithmic.
        turn: the value at which the colour changes: cells up to it are good.
        texts: lines of each cell's label.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    row_title: str
    column_title: str
    values: Sequence[Sequence[float]]
    turn: float
    texts: Sequence[Sequence[Sequence[str]]]


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

    @property
    def legend(self) -> dict[str, str]:
        """Colours of the named series of all panels."""
        panels = [panel for panel in self.panels if isinstance(panel, Panel)]
        named = [series for panel in panels for series in panel.series if series.name]
        return {series.name: series.colour for series in named}


RAMP = ("#b8690a", "#cf4636", "#a83279", "#5b3a9e", "#17255a")
LOADS = ("#0b7c7e", "#b85c0e", "#6a4c93", "#3a7d44", "#b23a48", "#4a4e69")
PHASES = {"late": "#8d93a3", "queue": "#d9952f", "denoise": "#3d6fb6", "stream": "#55a98a"}
INK, MUTED, GUIDE, GRID = "#22252b", "#5b606a", "#80868f", "#e4e7eb"
LIMIT, HELD, PAPER = "#c0392b", "#1d6b57", "#ffffff"


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
