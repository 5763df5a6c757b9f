"""Charts as PNG files, by matplotlib."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, ScalarFormatter

from loadtest.chart_model import GUIDE, INK, LIMIT, Axis, Chart, Heat, Panel, Series

COOL_TO_HOT = LinearSegmentedColormap.from_list(
    "cool", ["#dcefe9", "#f6e3b4", "#e8a07a", "#b6483f"]
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
    "grid.color": "#e8eaee",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
HELD = "#1d6b57"
PANEL_WIDTH, HEIGHT, TITLE_HEIGHT = 4.6, 3.9, 0.95


def save(chart: Chart, folder: Path) -> Path:
    """Write ``<name>.png``; returns its path."""
    path = folder / f"{chart.name}.png"
    with matplotlib.rc_context(STYLE):
        draw(chart).savefig(path, dpi=130, facecolor="white")
    return path


def draw(chart: Chart) -> Figure:
    """The figure: a title, a note, panels in rows of three, and one legend."""
    count = len(chart.panels)
    columns = min(3, count)
    rows = -(-count // columns)
    wide = max(7.2, PANEL_WIDTH * columns)
    high = HEIGHT * rows + TITLE_HEIGHT
    below_title = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - TITLE_HEIGHT / high), w_pad=0.1)
    figure = Figure(figsize=(wide, high), layout=below_title)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=chart.shared_y)
    for axes, panel in zip(grid.flat, chart.panels, strict=False):
        if isinstance(panel, Heat):
            _heat(axes, panel)
        else:
            _panel(axes, panel)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    figure.text(0.012, 1 - 0.12 / high, chart.title, size=14, weight="bold", va="top")
    note = textwrap.fill(chart.note, int(wide * 14))
    figure.text(0.012, 1 - 0.46 / high, note, size=9, color="#5b606a", va="top")
    _legend(figure, grid.flat[0])
    return figure


def _legend(figure: Figure, first: Axes) -> None:
    handles, names = first.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(names)))


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", size=10.5)
    below: dict[str | float, float] = {}
    for series in panel.series:
        _series(axes, series, below)
    _axis(axes, "x", panel.x)
    _axis(axes, "y", panel.y)
    if panel.x.log and not panel.x.ticks:
        axes.margins(x=0.12)
    if not panel.y.log:
        low, high = axes.get_ylim()
        bounded = all(s.style in ("line", "bar", "step", "guide") for s in panel.series)
        axes.set_ylim(0 if bounded else low, high)
    if panel.limit is not None:
        _limit(axes, *panel.limit)


def _series(axes: Axes, series: Series, below: dict[str | float, float]) -> None:
    x, y, colour, name = series.x, series.y, series.colour, series.name or "_"
    if series.style == "guide":
        axes.plot(x, y, color=colour, lw=1.4, ls="--" if colour == GUIDE else "-", label=name)
    elif series.style == "bar":
        base = [below.get(at, 0.0) for at in x]
        axes.bar(x, y, bottom=base, color=colour, width=0.66, label=name)
        below.update({at: b + h for at, b, h in zip(x, base, y, strict=True)})
    elif series.style == "step":
        axes.step(x, y, where="post", color=colour, lw=1.8, label=name)
    elif series.style == "mark":
        _marks(axes, series, name)
    else:
        spread = series.spread if any(series.spread) else None
        axes.errorbar(
            x,
            y,
            yerr=spread,
            color=colour,
            lw=2,
            marker="o",
            ms=5,
            capsize=3,
            elinewidth=1,
            label=name,
        )
        for at, value, label in zip(x, y, series.labels, strict=False):
            axes.annotate(
                label, (at, value), (5, -9), textcoords="offset points", size=7.5, color="#5b606a"
            )


def _marks(axes: Axes, series: Series, name: str) -> None:
    if any(series.spread):
        axes.errorbar(
            series.x, series.y, yerr=series.spread, fmt="none", ecolor=series.colour, alpha=0.35
        )
    knee = series.labels == ["knee"]
    faces = ["white" if i in series.hollow else series.colour for i in range(len(series.x))]
    axes.scatter(
        series.x,
        series.y,
        s=150 if knee else 44,
        c="none" if knee else faces,
        edgecolors=series.colour,
        linewidths=1.8,
        zorder=4,
        label="_" if knee else name,
    )
    if not knee:
        for x, y, label in zip(series.x, series.y, series.labels, strict=False):
            axes.annotate(
                label, (x, y), (6, 5), textcoords="offset points", size=9, color=series.colour
            )


def _axis(axes: Axes, side: str, axis: Axis) -> None:
    target = axes.xaxis if side == "x" else axes.yaxis
    target.set_label_text(axis.title)
    if not axis.log:
        return
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    if axis.ticks:
        target.set_major_locator(FixedLocator(list(axis.ticks)))
        target.set_minor_locator(NullLocator())
    else:
        low, high = target.get_view_interval()
        subs = (1, 2, 5) if high / max(low, 1e-9) < 300 else (1,)
        target.set_major_locator(LogLocator(subs=subs))
    target.set_major_formatter(ScalarFormatter())
    target.set_minor_formatter(NullFormatter())


def _limit(axes: Axes, side: str, at: float, words: str) -> None:
    if side == "x":
        left, right = axes.get_xlim()
        left, right = min(left, at / 1.15), max(right, 1.15 * at)
        axes.axvspan(left, at, color=HELD, alpha=0.06, lw=0, zorder=0)
        axes.set_xlim(left, right)
        axes.axvline(at, color=LIMIT, lw=1.2, ls=":")
        axes.text(
            at,
            1.0,
            f" {words}",
            transform=axes.get_xaxis_transform(),
            color=LIMIT,
            size=8,
            va="top",
        )
    else:
        axes.axhline(at, color=LIMIT, lw=1.2, ls=":")
        axes.text(
            1.0,
            at,
            words,
            transform=axes.get_yaxis_transform(),
            color=LIMIT,
            size=8,
            va="bottom",
            ha="right",
        )


def _heat(axes: Axes, heat: Heat) -> None:
    values = np.array(heat.values, dtype=float)
    known = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([1.0])
    norm = LogNorm(known.min(), max(known.max(), 1.01 * known.min()))
    axes.imshow(values, origin="lower", aspect="auto", cmap=COOL_TO_HOT, norm=norm)
    axes.grid(False)
    axes.set_title(heat.title, loc="left", size=10.5)
    axes.set_xticks(range(len(heat.columns)), heat.columns)
    axes.set_yticks(range(len(heat.rows)), heat.rows)
    axes.set_xlabel(heat.column_title)
    axes.set_ylabel(heat.row_title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, (texts, good) in enumerate(zip(heat.texts, heat.good, strict=True)):
        for column, (text, held) in enumerate(zip(texts, good, strict=True)):
            value = values[row, column]
            dark = np.isfinite(value) and norm(value) > 0.8
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                size=9,
                weight="bold" if held else "normal",
                color="white" if dark else INK,
            )
            if held:
                frame = ([column - 0.47, column + 0.47], [row - 0.46, row + 0.46])
                (left, right), (low, high) = frame
                axes.plot(
                    [left, right, right, left, left],
                    [low, low, high, high, low],
                    color=HELD,
                    lw=2,
                )
