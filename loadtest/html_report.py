"""Renders the report as one HTML file that loads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtest.answer_cards import Card, Slider
from loadtest.chart_model import Chart
from loadtest.charts_svg import palette, pictures, variable
from loadtest.samples import Sample

MARKS = {"✓": "good", "✗": "bad"}
"""CSS classes of table cells, by their first character."""
LONGEST = 1500  # characters of a sample's text
LARGEST = 60_000  # characters of a sample's image in base64


@dataclass(frozen=True)
class Table:
    """A table of text; a cell that begins with a tick or a cross gets its colour."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """Content of the page.

    Attributes:
        slider: limits of the objective, for the cards.
        conditions: pairs of a name and a value, the most important ones.
        facts: all conditions, as JSON.
        images: whether samples are images.
    """

    title: str
    slider: Slider
    cards: Sequence[Card]
    charts: Sequence[Chart]
    tables: Sequence[Table]
    facts: str
    warnings: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    images: bool = False
    conditions: Sequence[tuple[str, str]] = ()


def page(report: Report) -> str:
    """The whole document, from ``templates/report.html.j2``."""
    environment = Environment(
        loader=PackageLoader("loadtest"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"pictures": pictures, "variable": variable}
    limits = {"seconds": report.slider.seconds, "words": report.slider.words}
    return environment.get_template("report.html.j2").render(
        report=report,
        limits=limits,
        palette=palette(list(report.charts)),
        marks=MARKS,
        longest=LONGEST,
        largest=LARGEST,
    )
