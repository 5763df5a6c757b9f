"""Charts of throughput and latency by load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from loadtest.chart_groups import by, colours_of, hover_of, load_axis, loops, title_of
from loadtest.chart_model import GUIDE, PHASES, Axis, Chart, Panel, Series
from loadtest.intervals import Estimate
from loadtest.summary import Figures, Run, milliseconds

CURVE_POINTS = 200  # of a distribution; more would not be seen
SPREAD_NOTE = "Small dots: single repeats. Bars: 95 % intervals, from three repeats on."
Of = Callable[[Figures], Estimate]


def rates(run: Run) -> Chart:
    """Throughput and goodput against load, for each step count."""
    colours = colours_of(run)
    panels = []
    for rows in loops(run):
        values = [f.load.value for row in rows for f in row]
        axis = load_axis(rows[0][0].load, values)
        for title, of in (
            ("throughput", lambda f: f.throughput),
            (f"goodput: within {milliseconds(run.objective.seconds)}", lambda f: f.goodput),
        ):
            unit = "requests a second"
            series = [_by_load(row, of, unit, colours[row[0].setting.steps]) for row in rows]
            if rows[0][0].load.loop == "open":
                ends = sorted(set(values))
                series.append(Series("offered", ends, ends, GUIDE, "guide"))
            panels.append(
                Panel(title_of(rows[0][0].setting, title), axis, Axis("requests a second"), series)
            )
    return Chart(
        "rates",
        "How much does the server do, and how much of it in time?",
        SPREAD_NOTE,
        panels,
        shared_y=True,
    )


def knees(run: Run) -> Chart:
    """Latency against throughput: where more load only makes requests wait."""
    colours = colours_of(run)
    panels = []
    for rows in loops(run):
        series = []
        for row in rows:
            known = [f for f in row if f.latencies]
            x = [f.throughput.value for f in known]
            y = [f.p95.value for f in known]
            colour = colours[row[0].setting.steps]
            labels = [f"{f.load.value:g}" for f in known]
            hover = [hover_of(f, f.throughput, "requests a second") for f in known]
            series.append(Series(row[0].setting.phrase, x, y, colour, labels=labels, hover=hover))
            if (at := knee(known)) is not None:
                series.append(Series("", [x[at]], [y[at]], colour, "ring"))
        limit = ("y", run.objective.seconds, run.objective.words)
        panels.append(
            Panel(
                title_of(rows[0][0].setting, f"labels: {load_axis(rows[0][0].load, []).title}"),
                Axis("throughput, requests a second"),
                Axis("p95 latency, s", log=True),
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
    colours = colours_of(run)
    panels = []
    for group in by(run, "load"):
        series = []
        for f in group:
            at = _curve(len(f.latencies))
            values = [f.latencies[i] for i in at]
            shares = [100 * (i + 1) / len(f.latencies) for i in at]
            colour = colours[f.setting.steps]
            series.append(Series(f.setting.phrase, values, shares, colour, "step"))
        panels.append(
            Panel(
                title_of(group[0].setting, group[0].load.words),
                Axis("latency, s", log=True),
                Axis("% of requests ended"),
                series,
                ("x", run.objective.seconds, milliseconds(run.objective.seconds)),
            )
        )
    note = "From the time at which each request was due."
    title = "How long do requests take, the unlucky ones included?"
    return Chart("latencies", title, note, panels, shared_y=True)


def streaming(run: Run) -> Chart | None:
    """Time to the first token, and speed after it, by load; only of left-to-right models."""
    if not run.left_to_right:
        return None
    colours = colours_of(run)
    panels = []
    for rows in loops(run):
        axis = load_axis(rows[0][0].load, [f.load.value for row in rows for f in row])
        for title, unit, of in (
            ("time to first token, median", "seconds", lambda f: f.settled_p50),
            ("time to first token, p95", "seconds", lambda f: f.settled_p95),
            ("speed of one answer, median", "tokens a second", lambda f: f.speed),
        ):
            known = [[f for f in row if not math.isnan(of(f).value)] for row in rows]
            series = [
                _by_load(row, of, unit, colours[row[0].setting.steps]) for row in known if row
            ]
            if series:
                words = title_of(rows[0][0].setting, title)
                panels.append(Panel(words, axis, Axis(unit), series))
    note = f"Speed: tokens after the first, by the time from the first to the end. {SPREAD_NOTE}"
    title = "How soon does text begin, and how fast does it go on?"
    return Chart("streaming", title, note, panels) if panels else None


def _by_load(row: Sequence[Figures], of: Of, unit: str, colour: str) -> Series:
    """One figure of a setting against load."""
    return Series(
        row[0].setting.phrase,
        [f.load.value for f in row],
        [of(f).value for f in row],
        colour,
        intervals=[of(f).interval for f in row],
        repeats=[of(f).repeats for f in row],
        hover=[hover_of(f, of(f), unit) for f in row],
    )


def _curve(count: int) -> list[int]:
    """Indices of at most ``CURVE_POINTS`` of ``count`` sorted values, the first and last among
    them.
    """
    kept = min(count, CURVE_POINTS)
    return [round(i * (count - 1) / max(1, kept - 1)) for i in range(kept)]


def phases(run: Run) -> Chart | None:
    """Where the time of a request goes."""
    panels = []
    names = {
        "late": "sent late (client)",
        "queue": "in the queue",
        "denoise": "denoising",
        "stream": "HTTP and streaming",
    }
    for group in by(run, "load"):
        known = [f for f in group if f.phases]
        labels = [f.setting.label for f in known]
        series = [
            Series(name, labels, [f.phases[phase] for f in known], PHASES[phase], "bar")
            for phase, name in names.items()
        ]
        if known:
            title = title_of(group[0].setting, group[0].load.words)
            panels.append(Panel(title, Axis("steps"), Axis("mean seconds of a request"), series))
    note = "Queue and denoising by the server's own account, the rest by the client's clock."
    return Chart("phases", "Where does the time go?", note, panels) if panels else None
