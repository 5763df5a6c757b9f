"""Charts and tables as one HTML file that needs nothing else: plotly's program stands in it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from loadtest.chart_model import GUIDE, INK, LIMIT, Axis, Chart, Heat, Panel, Series

SCALE = [[0, "#dcefe9"], [0.33, "#f6e3b4"], [0.66, "#e8a07a"], [1, "#b6483f"]]
TICKS = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22252b; max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .2rem; }
p.note { color: #5b606a; margin: .1rem 0 .6rem; } ul.answer { font-size: 1.05rem; }
ul.answer li { margin: .35rem 0; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #e8eaee; }
th { background: #f6f7f9; position: sticky; top: 0; } td.good { color: #1d6b57; font-weight: 600; }
td.bad { color: #c0392b; }
pre { background: #f6f7f9; padding: .8rem; overflow: auto; font-size: .8rem; }
.scroll { overflow-x: auto; } .warning { background: #fdf0e3; padding: .5rem .8rem; }
"""


@dataclass(frozen=True)
class Table:
    """Rows of text; a field that begins with a tick or a cross is coloured by it."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(
    title: str,
    answer: Sequence[str],
    warnings: Sequence[str],
    charts: Sequence[Chart],
    tables: Sequence[Table],
    facts: str,
) -> str:
    """The whole document."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="warning">{html.escape(words)}</p>' for words in warnings]
    lines = "".join(f"<li>{html.escape(words)}</li>" for words in answer)
    parts.append(f'<ul class="answer">{lines}</ul>')
    for chart in charts:
        parts.append(f"<h2>{html.escape(chart.title)}</h2>")
        parts.append(f'<p class="note">{html.escape(chart.note)}</p>')
        options = {"displayModeBar": False, "responsive": True}
        parts.append(
            figure(chart).to_html(
                full_html=False, include_plotlyjs=False, config=options, div_id=chart.name
            )
        )
    parts += [_table(table) for table in tables]
    parts.append(f"<h2>How it was measured</h2><pre>{html.escape(facts)}</pre>")
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{CSS}</style>"
    script = f"<script>{get_plotlyjs()}</script>"
    return f"<!doctype html><html><head>{head}{script}</head><body>{''.join(parts)}</body></html>\n"


def _table(table: Table) -> str:
    def field(words: str) -> str:
        kind = {"✓": "good", "✗": "bad"}.get(words[:1], "")
        return f'<td class="{kind}">{html.escape(words)}</td>'

    head = "".join(f"<th>{html.escape(words)}</th>" for words in table.head)
    rows = "".join(f"<tr>{''.join(field(words) for words in row)}</tr>" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>'
    whole = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    return f"<h2>{html.escape(table.title)}</h2>{note}{whole}"


def figure(chart: Chart) -> go.Figure:
    """A chart, panels in rows of three."""
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
    """A line across a panel, with its words at its end."""
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
    place = {side: math.log10(at) if log else at, other: 1}  # words count in decades, lines do not
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
    told: dict[str, Any] = {"title_text": axis.title}
    if axis.log:
        ticks = axis.ticks or TICKS
        told |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return told


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
