"""Renders the report as one HTML file that includes plotly and loads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from loadtest.chart_model import Chart
from loadtest.charts_plotly import figure

MARKS = {"✓": "good", "✗": "bad"}
"""CSS classes of table cells, by their first character."""


@dataclass(frozen=True)
class Table:
    """A table of text; a cell that begins with a tick or a cross gets its colour."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(
    title: str,
    answers: Sequence[str],
    warnings: Sequence[str],
    charts: Sequence[Chart],
    tables: Sequence[Table],
    facts: str,
) -> str:
    """The whole document, from ``templates/report.html.j2``."""
    environment = Environment(
        loader=PackageLoader("loadtest"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure_html
    return environment.get_template("report.html.j2").render(
        title=title,
        answers=answers,
        warnings=warnings,
        charts=charts,
        tables=tables,
        facts=facts,
        marks=MARKS,
        plotly=get_plotlyjs(),
    )


def _figure_html(chart: Chart) -> str:
    options = {"displayModeBar": False, "responsive": True}
    return figure(chart).to_html(
        full_html=False, include_plotlyjs=False, config=options, div_id=chart.name
    )
