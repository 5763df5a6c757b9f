"""Builds the charts of a run from its figures; each answers one question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from loadtest.chart_model import GUIDE, LOADS, PHASES, Axis, Chart, Heat, Panel, Series, ramp
from loadtest.plan import Load, Setting
from loadtest.quality_stats import Measure, measures
from loadtest.summary import Figures, Run, milliseconds

MS = 1e3


def all_views(run: Run) -> list[Chart]:
    """All charts that the run has data for, most important first."""
    charts = [pareto(run), heat(run), rates(run), knees(run), distributions(run), phases(run)]
    return [chart for chart in charts if chart is not None]


def _by(run: Run, what: str) -> list[list[Figures]]:
    """Figures in groups of one variant and one ``load``, or one ``setting`` and loop."""

    def key(f: Figures) -> tuple:
        if what == "load":
            return (f.setting.variant, f.load.loop, f.load.value)
        return (f.setting.variant, f.load.loop, f.setting.steps or 0)

    return [list(group) for _, group in groupby(sorted(run.figures, key=key), key)]


def _loops(run: Run) -> list[list[list[Figures]]]:
    """For each variant and kind of loop, a list for each step count, by load."""

    def key(group: list[Figures]) -> tuple[str, str]:
        return (group[0].setting.variant, group[0].load.loop)

    groups = [sorted(g, key=lambda f: f.load.value) for g in _by(run, "setting")]
    return [list(found) for _, found in groupby(groups, key)]


def _colours(run: Run) -> dict[int | None, str]:
    steps = sorted({f.setting.steps for f in run.figures}, key=lambda s: s or 0)
    return dict(zip(steps, ramp(len(steps)), strict=True))


def _title(setting: Setting, words: str = "") -> str:
    return ", ".join(part for part in (words, setting.variant) if part)


def _load_axis(load: Load, values: Sequence[float]) -> Axis:
    title = "requests at a time" if load.loop == "closed" else "requests a second, offered"
    return Axis(title, log=True, ticks=sorted(set(values)))


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
    for index, group in enumerate(_by(run, "load")):
        colour = LOADS[index % len(LOADS)]
        known = [f for f in group if f.setting.name in measure.values and f.latencies]
        if not known:
            continue
        points = [(MS * f.p95.value, measure.values[f.setting.name].value) for f in known]
        best = front(points, measure.lower)
        name = _title(known[0].setting, known[0].load.words)
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
                [measure.values[f.setting.name].half_width or 0.0 for f in known],
                frozenset(range(len(points))) - frozenset(best),
            )
        )
    side = "lower" if measure.lower else "higher"
    goal = run.objective
    limit = ("x", MS * goal.seconds, goal.words) if goal.percent == 95 else None
    axis = Axis("p95 latency, ms", log=True)
    return Panel(measure.title, axis, Axis(f"{measure.unit} ({side} is better)"), series, limit)


def heat(run: Run) -> Chart:
    """Steps x load: the latency of the objective's percentile, and whether it is met."""
    fields = []
    for rows in _loops(run):
        loads = sorted({f.load for row in rows for f in row}, key=lambda load: load.value)
        table = {(f.setting, f.load): f for row in rows for f in row}
        first = rows[0][0]
        wanted = [[table.get((row[0].setting, load)) for load in loads] for row in rows]
        fields.append(
            Heat(
                title=_title(first.setting),
                rows=[row[0].setting.label for row in rows],
                columns=[f"{load.value:g}" for load in loads],
                row_title="steps",
                column_title=_load_axis(first.load, []).title,
                values=[[f.objective_at.value if f else math.nan for f in row] for row in wanted],
                texts=[[_field(run, f) if f else "" for f in row] for row in wanted],
                good=[[f is not None and meets(run, f) for f in row] for row in wanted],
            )
        )
    return Chart(
        "heat",
        f"Which step counts hold {run.objective.words}, and at which load?",
        f"Each field: p{run.objective.percent:g} latency, and the share of requests within "
        f"{milliseconds(run.objective.seconds)}. A tick: the objective is held.",
        fields,
    )


def meets(run: Run, f: Figures) -> bool:
    """Whether a cell holds the objective: failures count as too late."""
    return 100 * f.attained >= run.objective.percent and f.complete


def _field(run: Run, f: Figures) -> str:
    sign = "✓" if meets(run, f) else "✗"
    more = ">" if f.objective_at.at_least else ""
    return f"{more}{milliseconds(f.objective_at.value)}\n{sign} {100 * f.attained:.0f} %"


def rates(run: Run) -> Chart:
    """Throughput and goodput against load, for each step count."""
    colours = _colours(run)
    panels = []
    for rows in _loops(run):
        values = [f.load.value for row in rows for f in row]
        axis = _load_axis(rows[0][0].load, values)
        for title, of in (
            ("throughput", lambda f: f.throughput),
            (f"goodput: within {milliseconds(run.objective.seconds)}", lambda f: f.goodput),
        ):
            series = [
                Series(
                    f"{row[0].setting.label} steps",
                    [f.load.value for f in row],
                    [of(f).value for f in row],
                    colours[row[0].setting.steps],
                    spread=[of(f).half_width or 0.0 for f in row],
                )
                for row in rows
            ]
            if rows[0][0].load.loop == "open":
                ends = sorted(set(values))
                series.append(Series("offered", ends, ends, GUIDE, "guide"))
            panels.append(
                Panel(_title(rows[0][0].setting, title), axis, Axis("requests a second"), series)
            )
    return Chart(
        "rates",
        "How much does the server do, and how much of it in time?",
        "Bars: 95 % intervals from repeats.",
        panels,
        shared_y=True,
    )


def knees(run: Run) -> Chart:
    """Latency against throughput: where more load only makes requests wait."""
    colours = _colours(run)
    panels = []
    for rows in _loops(run):
        series = []
        for row in rows:
            known = [f for f in row if f.latencies]
            x = [f.throughput.value for f in known]
            y = [MS * f.p95.value for f in known]
            colour = colours[row[0].setting.steps]
            labels = [f"{f.load.value:g}" for f in known]
            name = f"{row[0].setting.label} steps"
            series.append(Series(name, x, y, colour, labels=labels))
            if (at := knee(known)) is not None:
                series.append(Series("", [x[at]], [y[at]], colour, "mark", ["knee"]))
        limit = ("y", MS * run.objective.seconds, run.objective.words)
        panels.append(
            Panel(
                _title(rows[0][0].setting, f"labels: {_load_axis(rows[0][0].load, []).title}"),
                Axis("throughput, requests a second"),
                Axis("p95 latency, ms", log=True),
                series,
                limit if run.objective.percent == 95 else None,
            )
        )
    return Chart(
        "knees",
        "From which load on do requests only wait longer?",
        "Each line follows one step count from light to heavy load. Where it turns upwards the "
        "server is full. Ringed, the knee: the heaviest load that gave its share of throughput.",
        panels,
    )


def knee(row: Sequence[Figures]) -> int | None:
    """Index of the last load before saturation; None where no load saturated the server.

    Open loop: the last rate that was kept up with. Closed loop: the last width at which doubling
    the load still raised throughput by a quarter or more.
    """
    for i, f in enumerate(row):
        if f.load.loop == "open" and not f.complete:
            return max(0, i - 1)
        if f.load.loop == "closed" and i > 0:
            doublings = math.log2(f.load.value / row[i - 1].load.value)
            if f.throughput.value < row[i - 1].throughput.value * 1.25**doublings:
                return i - 1
    return None


def distributions(run: Run) -> Chart:
    """All latencies, by load."""
    colours = _colours(run)
    panels = []
    for group in _by(run, "load"):
        series = []
        for f in group:
            values = [MS * latency for latency in f.latencies]
            shares = [100 * (i + 1) / len(values) for i in range(len(values))]
            name = f"{f.setting.label} steps"
            series.append(Series(name, values, shares, colours[f.setting.steps], "step"))
        panels.append(
            Panel(
                _title(group[0].setting, group[0].load.words),
                Axis("latency, ms", log=True),
                Axis("% of requests ended"),
                series,
                ("x", MS * run.objective.seconds, milliseconds(run.objective.seconds)),
            )
        )
    note = "From the time at which each request was due."
    title = "How long do requests take, the unlucky ones included?"
    return Chart("latencies", title, note, panels, shared_y=True)


def phases(run: Run) -> Chart | None:
    """Where the time of a request goes."""
    panels = []
    names = {
        "late": "sent late (client)",
        "queue": "in the queue",
        "denoise": "denoising",
        "stream": "HTTP and streaming",
    }
    for group in _by(run, "load"):
        known = [f for f in group if f.phases]
        labels = [f.setting.label for f in known]
        series = [
            Series(name, labels, [MS * f.phases[phase] for f in known], PHASES[phase], "bar")
            for phase, name in names.items()
        ]
        if known:
            title = _title(group[0].setting, group[0].load.words)
            panels.append(Panel(title, Axis("steps"), Axis("mean ms of a request"), series))
    note = "Queue and denoising by the server's own account, the rest by the client's clock."
    return Chart("phases", "Where does the time go?", note, panels) if panels else None
