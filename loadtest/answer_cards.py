"""The answer at a glance: the most steps that hold an objective under each load, for any limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.chart_groups import by, seconds_at
from loadtest.plan import Load
from loadtest.quality_stats import Measure, measures
from loadtest.summary import Figures, Run, milliseconds

LIMITS = 120
"""Number of positions of the slider."""


@dataclass(frozen=True)
class Option:
    """The answer for limits from ``holds_from`` seconds on, unless one of more steps holds as well.

    Attributes:
        answer: the step count; that the objective is held, where no step counts are sent.
        latency: the objective's percentile, as text.
        quality: compared with the best, or empty.
        further: the next higher step count and its cost, or empty.
    """

    holds_from: float
    answer: str
    latency: str
    quality: str
    further: str


@dataclass(frozen=True)
class Card:
    """One load: options from most steps to fewest, and the words if none holds."""

    load: str
    options: Sequence[Option]
    otherwise: str


@dataclass(frozen=True)
class Slider:
    """Limits of the objective to choose from.

    Attributes:
        percentile: words, for example p95.
        seconds: in ascending order.
        words: the same as text.
        chosen: index of the run's own limit.
    """

    percentile: str
    seconds: Sequence[float]
    words: Sequence[str]
    chosen: int


def cards(run: Run, name: str = "") -> list[Card]:
    """A card for each load, with the parameters besides steps and ``name`` in its title."""
    return [_card(run, group, name) for group in by(run, "load")]


def slider(runs: Sequence[Run]) -> Slider:
    """Limits from below the quickest setting to above the slowest; the runs' own is among them."""
    own = runs[0].objective
    ends = [f.holds_from for run in runs for f in run.figures if math.isfinite(f.holds_from)]
    least, most = min([own.seconds, *ends]) / 1.3, max([own.seconds, *ends]) * 1.3
    rounded = [float(f"{limit:.2g}") for limit in np.geomspace(least, most, LIMITS)]
    by_words = {milliseconds(limit): limit for limit in [*rounded, own.seconds]}
    seconds = sorted(by_words.values())
    words = [milliseconds(limit) for limit in seconds]
    return Slider(f"p{own.percent:g}", seconds, words, seconds.index(own.seconds))


def clients(load: Load) -> str:
    """A load as the title of a card."""
    one = load.value == 1
    if load.loop == "closed":
        return f"{load.value:g} client{'' if one else 's'}"
    return f"{load.value:g} request{'' if one else 's'} a second"


def _card(run: Run, group: Sequence[Figures], name: str) -> Card:
    ordered = sorted(group, key=lambda f: f.setting.steps or 0)
    parts = (name, clients(group[0].load), group[0].setting.variant)
    load = ", ".join(part for part in parts if part)
    quickest = min(ordered, key=lambda f: f.holds_from)
    otherwise = "too many requests fail, or the server does not keep up"
    if math.isfinite(quickest.holds_from):
        otherwise = f"{quickest.setting.phrase}: {_latency(run, quickest)}"
    return Card(load, list(_options(run, ordered))[::-1], otherwise)


def _options(run: Run, ordered: Sequence[Figures]) -> Iterator[Option]:
    measure = next(iter(measures(run.quality)), None)
    for i, f in enumerate(ordered):
        if not math.isfinite(f.holds_from):
            continue
        further = ""
        if i + 1 < len(ordered):
            then = ordered[i + 1]
            parts = [_latency(run, then), _quality(measure, then)]
            words = ", ".join(part for part in parts if part)
            further = f"{then.setting.phrase} would take {words}"
        yield Option(
            f.holds_from,
            "held" if f.setting.steps is None else f.setting.phrase,
            _latency(run, f),
            _quality(measure, f),
            further,
        )


def _latency(run: Run, f: Figures) -> str:
    """The objective's percentile. The table interpolates it, which among few requests can exceed a
    limit that holds; then it is the least of these limits.
    """
    exceeds = f.objective_at.value > f.holds_from
    time = milliseconds(f.holds_from) if exceeds else seconds_at(f.objective_at)
    return f"p{run.objective.percent:g} {time}"


def _quality(measure: Measure | None, f: Figures) -> str:
    if measure is None or f.setting.name not in measure.values:
        return ""
    share = 100 * measure.share_of_best(f.setting.name)
    value = measure.values[f.setting.name].value
    return f"{share:.0f} % of the best quality measured ({value:.3g} {measure.unit})"
