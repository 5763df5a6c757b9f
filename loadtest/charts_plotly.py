"""Charts as interactive figures, drawn with plotly."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from loadtest.chart_model import GUIDE, INK, LIMIT, Axis, Chart, Heat, Panel, Series

SCALE = [[0, "#dcefe9"], [0.33, "#f6e3b4"], [0.66, "#e8a07a"], [1, "#b6483f"]]
TICKS = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]


def figure(chart: Chart) -> go.Figure:
    """The figure of a chart, panels in rows of three."""
    count = len(chart.panels)
    columns = min(3, count)
    rows = -(-count // columns)
    found = make_subplots(
        rows,
        columns,
        subplot_titles=[panel.title for panel in chart.panels],
        shared_yaxes=chart.shared_y,
        horizontal_spacing=0.07,
    )
    named: set[str] = set()
    for index, panel in enumerate(chart.panels):
        row, col = index // columns + 1, index % columns + 1
        if isinstance(panel, Heat):
            _heat(found, panel, row, col)
            continue
        for series in panel.series:
            found.add_trace(_trace(series, named), row=row, col=col)
        found.update_xaxes(_axis(panel.x), row=row, col=col)
        found.update_yaxes(_axis(panel.y), row=row, col=col)
        if panel.limit is not None:
            _limit(found, panel, index + 1)
    found.update_layout(
        template="plotly_white",
        height=420 * rows,
        barmode="stack",
        font_color=INK,
        margin={"t": 40, "l": 60, "r": 20, "b": 60},
        legend={"orientation": "h", "y": -0.18 / rows, "yanchor": "top"},
    )
    return found


def _limit(found: go.Figure, panel: Panel, number: int) -> None:
    """Draw the objective as a line across a panel, with its text at the end."""
    assert panel.limit is not None
    side, at, words = panel.limit
    end = "" if number == 1 else str(number)
    along = {"x": f"x{end}", "y": f"y{end} domain"}
    log = panel.x.log
    if side == "y":
        along, log = {"x": f"x{end} domain", "y": f"y{end}"}, panel.y.log
    other = "y" if side == "x" else "x"
    refs: dict[str, Any] = {"xref": along["x"], "yref": along["y"]}
    ends = {f"{side}0": at, f"{side}1": at, f"{other}0": 0, f"{other}1": 1}
    found.add_shape(type="line", line={"color": LIMIT, "dash": "dot"}, **ends, **refs)
    place = {
        side: math.log10(at) if log else at,
        other: 1,
    }  # on log axes, text takes exponents
    found.add_annotation(
        text=words,
        showarrow=False,
        font_color=LIMIT,
        xanchor="left" if side == "x" else "right",
        yanchor="top" if side == "x" else "bottom",
        **place,
        **refs,
    )


def _axis(axis: Axis) -> dict[str, Any]:
    options: dict[str, Any] = {"title_text": axis.title}
    if axis.log:
        ticks = axis.ticks or TICKS
        options |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return options


def _trace(series: Series, named: set[str]) -> Any:
    shown = bool(series.name) and series.name not in named
    named.add(series.name)
    common: dict[str, Any] = {
        "x": list(series.x),
        "y": list(series.y),
        "name": series.name,
        "legendgroup": series.name or None,
        "showlegend": shown,
    }
    if series.style == "bar":
        return go.Bar(**common, marker_color=series.colour)
    spread = {"type": "data", "array": list(series.spread), "thickness": 1}
    if not any(series.spread):
        spread = None
    knee = series.labels == ["knee"]
    symbols = ["circle-open" if i in series.hollow else "circle" for i in range(len(series.x))]
    lines = {"color": series.colour, "width": 2}
    if series.style == "step":
        lines["shape"] = "hv"
    if series.style == "guide" and series.colour == GUIDE:
        lines["dash"] = "dash"
    modes = {"line": "lines+markers", "step": "lines", "guide": "lines", "mark": "markers+text"}
    return go.Scatter(
        **common,
        mode=modes[series.style] + ("+text" if series.labels and series.style == "line" else ""),
        text=list(series.labels) or None,
        textposition="top right" if series.style == "mark" else "bottom right",
        textfont_color=series.colour,
        line=lines,
        error_y=spread,
        marker={
            "color": series.colour,
            "size": 16 if knee else 8,
            "symbol": ["circle-open"] if knee else symbols,
            "line_width": 2,
        },
    )


def _heat(found: go.Figure, heat: Heat, row: int, col: int) -> None:
    logs = [[math.log(v) if v and math.isfinite(v) else None for v in row] for row in heat.values]
    found.add_trace(
        go.Heatmap(
            z=logs,
            x=list(heat.columns),
            y=list(heat.rows),
            text=[[text.replace("\n", "<br>") for text in row] for row in heat.texts],
            texttemplate="%{text}",
            hovertemplate="%{y} steps, load %{x}<br>%{text}<extra></extra>",
            colorscale=SCALE,
            showscale=False,
            xgap=3,
            ygap=3,
        ),
        row=row,
        col=col,
    )
    found.update_xaxes(title_text=heat.column_title, type="category", row=row, col=col)
    found.update_yaxes(title_text=heat.row_title, type="category", row=row, col=col)
