"""Groups of a run's figures, and texts about them, that several charts need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from loadtest.chart_model import Axis, ramp
from loadtest.intervals import Estimate
from loadtest.plan import Load, Setting
from loadtest.summary import Figures, Run, milliseconds


def by(run: Run, what: str) -> list[list[Figures]]:
    """Figures in groups of one variant and one ``load``, or one ``setting`` and loop."""

    def key(f: Figures) -> tuple:
        if what == "load":
            return (f.setting.variant, f.load.loop, f.load.value)
        return (f.setting.variant, f.load.loop, f.setting.steps or 0)

    return [list(group) for _, group in groupby(sorted(run.figures, key=key), key)]


def loops(run: Run) -> list[list[list[Figures]]]:
    """For each variant and kind of loop, a list for each step count, by load."""

    def key(group: list[Figures]) -> tuple[str, str]:
        return (group[0].setting.variant, group[0].load.loop)

    groups = [sorted(g, key=lambda f: f.load.value) for g in by(run, "setting")]
    return [list(found) for _, found in groupby(groups, key)]


def colours_of(run: Run) -> dict[int | None, str]:
    """Colours of the step counts."""
    steps = sorted({f.setting.steps for f in run.figures}, key=lambda s: s or 0)
    return dict(zip(steps, ramp(len(steps)), strict=True))


def load_axis(load: Load, values: Sequence[float]) -> Axis:
    """Axis of loads of one kind of loop, with ticks at the values."""
    title = "requests at a time" if load.loop == "closed" else "requests a second, offered"
    return Axis(title, log=True, ticks=sorted(set(values)))


def title_of(setting: Setting, words: str = "") -> str:
    """Words, then the parameters besides steps."""
    return ", ".join(part for part in (words, setting.variant) if part)


def meets(run: Run, f: Figures) -> bool:
    """Whether a cell holds the objective: failures count as too late."""
    return f.holds_from <= run.objective.seconds


def seconds_at(estimate: Estimate) -> str:
    """A time as text, with a sign if it is a lower bound."""
    if math.isnan(estimate.value):
        return "–"
    return (">" if estimate.at_least else "") + milliseconds(estimate.value)


def hover_of(f: Figures, estimate: Estimate, unit: str) -> str:
    """Text of a point: setting, load, p95 latency and a further figure."""
    interval = ""
    if estimate.interval is not None:
        interval = " ({:.3g} to {:.3g})".format(*estimate.interval)
    return (
        f"{f.setting.phrase}, {f.load.words}: p95 {seconds_at(f.p95)}, "
        f"{estimate.value:.3g}{interval} {unit}"
    )
