"""Panels of charts as SVG for the page: colours follow its theme, and points have hover text."""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import matplotlib
from matplotlib.figure import Figure

from loadtest.chart_drawing import STYLE, DrawnPanel
from loadtest.chart_model import (
    GRID,
    GUIDE,
    HELD,
    INK,
    LIMIT,
    LOADS,
    MUTED,
    PAPER,
    PHASES,
    Chart,
    Panel,
)
from loadtest.charts_png import finish

SIZE = (4.4, 3.3)  # inches of 72 units
HOVER_RADIUS = 9
DARK = {
    INK: "#e4e6ea",
    MUTED: "#a4a9b3",
    GUIDE: "#8a9099",
    GRID: "#2c3037",
    PAPER: "#17191d",
    LIMIT: "#ff8f7d",
    HELD: "#63c7a8",
}
"""Colours of the dark theme; those of series are lightened."""


@dataclass(frozen=True)
class Picture:
    """A panel as inline SVG, all of it escaped, with its title."""

    title: str
    svg: str


def pictures(chart: Chart) -> list[Picture]:
    """All panels of a chart."""
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none"}):
        figures = [Figure(SIZE, dpi=72, layout="constrained") for _ in chart.panels]
        pairs = zip(figures, chart.panels, strict=True)
        drawn = [DrawnPanel(figure.subplots(), panel, title=False) for figure, panel in pairs]
        if chart.shared_y:
            limits = [panel.axes.get_ylim() for panel in drawn]
            for panel in drawn:
                panel.axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        return [
            Picture(panel.title, _svg(chart, index, figures[index], drawn[index]))
            for index, panel in enumerate(chart.panels)
        ]


def variable(colour: str) -> str:
    """CSS of a colour that follows the theme."""
    return f"var(--c{colour[1:]})"


def palette(charts: list[Chart]) -> dict[str, tuple[str, str]]:
    """Light and dark values of all colours that follow the theme, by name of the variable."""
    used = {*DARK, *LOADS, *PHASES.values()}
    used |= {series.colour for panel in _panels(charts) for series in panel.series}
    return {f"--c{colour[1:]}": (colour, for_dark(colour)) for colour in sorted(used)}


def for_dark(colour: str) -> str:
    """The colour's counterpart on a dark ground: of the same hue, light enough to be seen."""
    if colour in DARK:
        return DARK[colour]
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(*parts)
    mixed = colorsys.hls_to_rgb(hue, max(light, 0.64), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)


def _panels(charts: list[Chart]) -> Iterator[Panel]:
    for chart in charts:
        yield from (panel for panel in chart.panels if isinstance(panel, Panel))


def _svg(chart: Chart, index: int, figure: Figure, drawn: DrawnPanel) -> str:
    """A panel as one ``svg`` element without ids that another picture of the page could have."""
    panel = chart.panels[index]
    finish(figure, [drawn])
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"{chart.name}-{index}"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    source = file.getvalue()
    inner = source[source.index("</metadata>") + len("</metadata>") : source.rindex("</svg>")]
    inner = re.sub(r"<style.*?</style>", "", inner, count=1, flags=re.DOTALL)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r"(\d\.\d\d)\d+", r"\1", inner)
    themed = {colour for colour, _ in palette([chart]).values()}
    inner = re.sub("#[0-9a-f]{6}", lambda m: variable(m[0]) if m[0] in themed else m[0], inner)
    if isinstance(panel, Panel):
        inner += _hover(drawn, panel, 72 * SIZE[1])
    words = ", ".join(part for part in (chart.title, panel.title) if part)
    box = f"0 0 {72 * SIZE[0]:g} {72 * SIZE[1]:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(words)}">{inner}</svg>'


def _hover(drawn: DrawnPanel, panel: Panel, height: float) -> str:
    """Invisible circles over the points, with their texts."""
    found = []
    for series in panel.series:
        for x, y, text in zip(series.x, series.y, series.hover, strict=False):
            across, up = drawn.axes.transData.transform((x, y))
            found.append(
                f'<circle cx="{across:.1f}" cy="{height - up:.1f}" r="{HOVER_RADIUS}" '
                f'fill="transparent"><title>{escape(text)}</title></circle>'
            )
    return "".join(found)
