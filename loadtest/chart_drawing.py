"""Draws one panel of a chart with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from loadtest.chart_labels import Label
from loadtest.chart_model import (
    GRID,
    GUIDE,
    HELD,
    INK,
    LIMIT,
    PAPER,
    Axis,
    Heat,
    Panel,
    Series,
)

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GUIDE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
GOOD = LinearSegmentedColormap.from_list("good", ["#5fb49c", "#d5ece5"])
BAD = LinearSegmentedColormap.from_list("bad", ["#fbe3cf", "#e58a6b"])
CELL_INK = "#16181c"
"""Text of heat map cells, whose colours are the same in light and dark themes."""
OCTAVES = 2.0  # of the value, from the turn to the deepest colour


class DrawnPanel:
    """A panel whose point labels are still to be placed.

    Attributes:
        labels: to place when the size of the axes is known.
        texts: that labels must not cover.
        lines: that labels rather not cover, as points.
    """

    def __init__(self, axes: Axes, panel: Panel | Heat, title: bool = True) -> None:
        """Draw everything but the labels of points."""
        self.axes = axes
        self.labels: list[Label] = []
        self.texts: list[Text] = []
        self.lines: list[list[tuple[float, float]]] = []
        if title:
            axes.set_title(panel.title, loc="left", size=10.5)
        if isinstance(panel, Heat):
            _heat(axes, panel)
        else:
            self._panel(panel)

    def _panel(self, panel: Panel) -> None:
        axes = self.axes
        below: dict[str | float, float] = {}
        for series in panel.series:
            _series(axes, series, below)
            if series.style in ("bar", "step"):
                continue
            points = [(float(x), y) for x, y in zip(series.x, series.y, strict=True)]
            if series.style in ("line", "guide"):
                self.lines.append(points)
            if series.style != "guide":
                texts = series.labels or [""] * len(points)
                pairs = zip(points, texts, strict=True)
                self.labels += [Label(*point, text, series.colour) for point, text in pairs]
        _axis(axes, "x", panel.x)
        _axis(axes, "y", panel.y)
        if panel.x.log and not panel.x.ticks:
            axes.margins(x=0.12)
        if not panel.y.log:
            low, high = axes.get_ylim()
            from_zero = all(s.style in ("line", "bar", "step", "guide") for s in panel.series)
            axes.set_ylim(0 if from_zero else max(0, low), high)
        if not panel.x.log and panel.series and panel.series[0].style != "bar":
            axes.set_xlim(left=0)
        if panel.limit is not None:
            self.texts.append(_limit(axes, *panel.limit))


def _series(axes: Axes, series: Series, below: dict[str | float, float]) -> None:
    x, y, colour = series.x, series.y, series.colour
    if series.style == "guide":
        axes.plot(x, y, color=colour, lw=1.4, ls="--" if colour == GUIDE else "-")
    elif series.style == "bar":
        base = [below.get(at, 0.0) for at in x]
        axes.bar(x, y, bottom=base, color=colour, width=0.66)
        below.update({at: b + h for at, b, h in zip(x, base, y, strict=True)})
    elif series.style == "step":
        axes.step(x, y, where="post", color=colour, lw=1.8)
    elif series.style == "ring":
        axes.scatter(x, y, s=150, c="none", edgecolors=colour, linewidths=1.8, zorder=4)
    else:
        _spread(axes, series)
        if series.style == "line":
            axes.plot(x, y, color=colour, lw=2, marker="o", ms=5)
        else:
            faces = [PAPER if i in series.hollow else colour for i in range(len(x))]
            axes.scatter(x, y, s=44, c=faces, edgecolors=colour, linewidths=1.8, zorder=4)


def _spread(axes: Axes, series: Series) -> None:
    """Intervals as bars, and single repeats as small dots."""
    for at, interval in zip(series.x, series.intervals, strict=False):
        if interval is not None:
            axes.plot([at, at], interval, color=series.colour, alpha=0.45, lw=1.4, marker="_", ms=5)
    for at, values in zip(series.x, series.repeats, strict=False):
        if len(values) > 1:
            axes.plot([at] * len(values), values, c=series.colour, ls="", marker="o", ms=2.6)


def _axis(axes: Axes, side: str, axis: Axis) -> None:
    target = axes.xaxis if side == "x" else axes.yaxis
    target.set_label_text(axis.title)
    if not axis.log:
        return
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    low, high = target.get_view_interval()
    if axis.ticks:
        target.set_major_locator(FixedLocator(_apart(axis.ticks)))
    else:
        subs = (1, 2, 5) if high / max(low, 1e-9) < 300 else (1,)
        target.set_major_locator(LogLocator(subs=subs))
    target.set_minor_locator(NullLocator())
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    target.set_minor_formatter(NullFormatter())


def _apart(ticks: Sequence[float]) -> list[float]:
    """Ticks of a logarithmic axis without those whose labels would touch the one before."""
    least = (max(ticks) / min(ticks)) ** (1 / 9)
    kept: list[float] = []
    for tick in sorted(ticks):
        if not kept or tick >= kept[-1] * least:
            kept.append(tick)
    return kept


def _limit(axes: Axes, side: str, at: float, words: str) -> Text:
    common: dict[str, Any] = {"color": LIMIT, "size": 8}
    if side == "x":
        left, right = axes.get_xlim()
        left, right = min(left, at / 1.15), max(right, 1.15 * at)
        axes.axvspan(left, at, color=HELD, alpha=0.06, lw=0, zorder=0)
        axes.set_xlim(left, right)
        axes.axvline(at, color=LIMIT, lw=1.2, ls=":")
        before = np.log(at / left) > 0.6 * np.log(right / left)
        ha, shift = ("right", -4) if before else ("left", 4)
        place = axes.get_xaxis_transform()
        return axes.annotate(
            words, (at, 1.0), (shift, 0), place, "offset points", va="top", ha=ha, **common
        )
    axes.axhline(at, color=LIMIT, lw=1.2, ls=":")
    place = axes.get_yaxis_transform()
    return axes.text(0.01, at, words, transform=place, va="bottom", ha="left", **common)


def cell_colour(value: float, turn: float) -> tuple[float, float, float, float]:
    """RGBA of a heat map's cell: green up to ``turn``, orange above, deeper further from it."""
    depth = float(np.clip(np.log2(max(value, 1e-9) / turn) / OCTAVES, -1, 1))
    return GOOD(1 + depth) if value <= turn else BAD(depth)


def _heat(axes: Axes, heat: Heat) -> None:
    for row, values in enumerate(heat.values):
        for column, value in enumerate(values):
            if np.isnan(value):
                continue
            colour = cell_colour(value, heat.turn)
            axes.bar(column, 0.94, 0.95, bottom=row - 0.47, color=colour)
            for shift, text in zip((0.16, -0.16), heat.texts[row][column], strict=True):
                axes.text(
                    column, row + shift, text, ha="center", va="center", size=9, color=CELL_INK
                )
    axes.grid(False)
    axes.set_xlim(-0.5, len(heat.columns) - 0.5)
    axes.set_ylim(-0.5, len(heat.rows) - 0.5)
    axes.set_xticks(range(len(heat.columns)), heat.columns)
    axes.set_yticks(range(len(heat.rows)), heat.rows)
    axes.set_xlabel(heat.column_title)
    axes.set_ylabel(heat.row_title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
