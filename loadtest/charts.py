"""All charts of a run; each answers one question."""

from __future__ import annotations

from loadtest.chart_model import Chart
from loadtest.charts_load import distributions, knees, phases, rates, streaming
from loadtest.charts_quality import heat, pareto
from loadtest.summary import Run


def all_views(run: Run) -> list[Chart]:
    """All charts that the run has data for, most important first."""
    views = (pareto, heat, streaming, rates, knees, distributions, phases)
    return [chart for view in views if (chart := view(run)) is not None]
