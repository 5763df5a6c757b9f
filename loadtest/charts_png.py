"""Charts as PNG files."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from loadtest.chart_drawing import STYLE, DrawnPanel
from loadtest.chart_labels import place
from loadtest.chart_model import MUTED, Chart

PANEL_WIDTH, HEIGHT, TITLE_HEIGHT = 4.6, 3.9, 0.95
DPI = 130


def save(chart: Chart, folder: Path) -> Path:
    """Write ``<name>.png``; returns its path."""
    path = folder / f"{chart.name}.png"
    with matplotlib.rc_context(STYLE):
        draw(chart).savefig(path, facecolor="white")
    return path


def draw(chart: Chart) -> Figure:
    """The figure: a title, a note, panels in rows of three, and one legend."""
    count = len(chart.panels)
    columns = min(3, count)
    rows = -(-count // columns)
    wide = max(7.2, PANEL_WIDTH * columns)
    high = HEIGHT * rows + TITLE_HEIGHT
    below_title = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - TITLE_HEIGHT / high), w_pad=0.1)
    figure = Figure(figsize=(wide, high), layout=below_title, dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=chart.shared_y)
    drawn = [DrawnPanel(*pair) for pair in zip(grid.flat, chart.panels, strict=False)]
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    figure.text(0.012, 1 - 0.12 / high, chart.title, size=14, weight="bold", va="top")
    note = textwrap.fill(chart.note, int(wide * 14))
    figure.text(0.012, 1 - 0.46 / high, note, size=9, color=MUTED, va="top")
    if names := chart.legend:
        handles = [Line2D([], [], color=colour, marker="o", lw=2) for colour in names.values()]
        columns = min(6, len(names))
        figure.legend(handles, list(names), loc="outside lower center", ncols=columns)
    finish(figure, drawn)
    return figure


def finish(figure: Figure, drawn: list[DrawnPanel]) -> None:
    """Fix the layout, and place the labels of points."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel in drawn:
        place(panel.axes, panel.labels, panel.texts, panel.lines, figure.dpi)
