"""Charts of quality and latency by step count: what more steps give, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtest.chart_groups import by, hover_of, load_axis, loops, meets, seconds_at, title_of
from loadtest.chart_model import LOADS, Axis, Chart, Heat, Panel, Series
from loadtest.quality_stats import Measure, measures
from loadtest.summary import Figures, Run, milliseconds


def pareto(run: Run) -> Chart | None:
    """Quality against p95 latency, with step counts as labels."""
    panels = [_pareto_panel(run, measure) for measure in measures(run.quality)]
    return (
        Chart(
            "pareto",
            "What do more steps buy, and what do they cost?",
            "Points are step counts, one line for each load. Filled points: no other step count is "
            "both quicker and better. Rings: another is. Bars: 95 % intervals.",
            panels,
        )
        if panels
        else None
    )


def _pareto_panel(run: Run, measure: Measure) -> Panel:
    series = []
    for index, group in enumerate(by(run, "load")):
        colour = LOADS[index % len(LOADS)]
        known = [f for f in group if f.setting.name in measure.values and f.latencies]
        if not known:
            continue
        points = [(f.p95.value, measure.values[f.setting.name].value) for f in known]
        best = front(points, measure.lower)
        name = title_of(known[0].setting, known[0].load.words)
        line = [points[i] for i in best]
        series.append(Series("", [p[0] for p in line], [p[1] for p in line], colour, "guide"))
        series.append(
            Series(
                name,
                [p[0] for p in points],
                [p[1] for p in points],
                colour,
                "mark",
                [f.setting.label + ("+" if f.p95.at_least else "") for f in known],
                [measure.values[f.setting.name].interval for f in known],
                hollow=frozenset(range(len(points))) - frozenset(best),
                hover=[hover_of(f, measure.values[f.setting.name], measure.unit) for f in known],
            )
        )
    side = "lower" if measure.lower else "higher"
    goal = run.objective
    limit = ("x", goal.seconds, goal.words) if goal.percent == 95 else None
    axis = Axis("p95 latency, s", log=True)
    return Panel(measure.title, axis, Axis(f"{measure.unit} ({side} is better)"), series, limit)


def front(points: Sequence[tuple[float, float]], lower: bool) -> list[int]:
    """Indices of points that no other beats: none is quicker and at least as good.

    Args:
        points: latency, and quality.
        lower: whether lower quality figures are better.
    """
    kept, best = [], math.inf
    sign = 1 if lower else -1
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if sign * points[i][1] < best:
            best = sign * points[i][1]
            kept.append(i)
    return kept


def heat(run: Run) -> Chart:
    """Steps x load: the latency of the objective's percentile, and whether it is met."""
    fields = []
    for rows in loops(run):
        loads = sorted({f.load for row in rows for f in row}, key=lambda load: load.value)
        table = {(f.setting, f.load): f for row in rows for f in row}
        first = rows[0][0]
        wanted = [[table.get((row[0].setting, load)) for load in loads] for row in rows]
        fields.append(
            Heat(
                title=title_of(first.setting),
                rows=[row[0].setting.label for row in rows],
                columns=[f"{load.value:g}" for load in loads],
                row_title="steps",
                column_title=load_axis(first.load, []).title,
                values=[[f.holds_from if f else math.nan for f in row] for row in wanted],
                turn=run.objective.seconds,
                texts=[[_field(run, f) if f else () for f in row] for row in wanted],
            )
        )
    return Chart(
        "heat",
        f"Which step counts hold {run.objective.words}, and at which load?",
        f"Each field: p{run.objective.percent:g} latency, and the share of requests within "
        f"{milliseconds(run.objective.seconds)}. Green with a tick: the objective is held. "
        "Orange: it is not.",
        fields,
    )


def _field(run: Run, f: Figures) -> tuple[str, str]:
    sign = "✓" if meets(run, f) else "✗"
    return seconds_at(f.objective_at), f"{sign} {100 * f.attained:.0f} %"
