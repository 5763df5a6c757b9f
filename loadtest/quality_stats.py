"""Quality statistics of settings from judged answers, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Estimate:
    """A value, and the half width of its 95 % interval; None if there is only one sample.

    ``at_least``: the value is a lower bound.
    """

    value: float
    half_width: float | None = None
    at_least: bool = False


@dataclass(frozen=True)
class SettingQuality:
    """Quality of one setting: means over answers, None for what was not measured.

    Attributes:
        answers: number of judged answers.
        nelbo: the model's own bound, in nats per token.
        entropy: of a text's tokens, in nats.
        repetition: share of 4-grams that occurred before in the text.
        scorer: perplexity under an independent judge.
        scorer_name: name of the judge's folder.
        accuracy: percent of images that a classifier assigns to the requested class.
        unit: of entropy and repetition: token or word.
    """

    answers: int
    nelbo: Estimate | None
    entropy: Estimate | None
    repetition: Estimate | None
    scorer: Estimate | None
    scorer_name: str
    accuracy: Estimate | None
    unit: str


@dataclass(frozen=True)
class Measure:
    """One measure of quality, for all settings.

    Attributes:
        title: of its chart.
        unit: of the values.
        lower: whether lower values are better.
        values: by names of settings.
    """

    title: str
    unit: str
    lower: bool
    values: Mapping[str, Estimate]


def measures(quality: Mapping[str, SettingQuality]) -> list[Measure]:
    """Measures of quality for charts, most independent first."""
    judge = next((w.scorer_name for w in quality.values() if w.scorer_name), "")
    found = [
        Measure(f"as {judge} reads it", "perplexity", True, _known(quality, "scorer")),
        Measure(
            "as the model itself reads it (bound)", "nats a token", True, _known(quality, "nelbo")
        ),
        Measure("as a classifier sees it", "% of images right", False, _known(quality, "accuracy")),
    ]
    return [measure for measure in found if measure.values]


def _known(quality: Mapping[str, SettingQuality], field: str) -> dict[str, Estimate]:
    values = {name: getattr(w, field) for name, w in quality.items()}
    return {name: value for name, value in values.items() if value is not None}


def quality_by_setting(rows: Sequence[dict[str, Any]]) -> dict[str, SettingQuality]:
    """Quality by name of setting, from judged answers."""
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], []).append(row)
    return {name: _quality_of(mine) for name, mine in by_setting.items()}


def _quality_of(rows: Sequence[dict[str, Any]]) -> SettingQuality:
    def mean(name: str, factor: float = 1.0) -> Estimate | None:
        values = [factor * float(row[name]) for row in rows if name in row]
        return Estimate(float(np.mean(values)), half_width(values)) if values else None

    scored = [row for row in rows if row.get("scorer_tokens")]
    nats = _ratio(scored, "scorer_nats", "scorer_tokens")
    perplexity = None
    if nats is not None:
        value = math.exp(nats.value)
        spread = None if nats.half_width is None else value * nats.half_width
        perplexity = Estimate(value, spread)
    return SettingQuality(
        answers=len(rows),
        nelbo=_ratio([row for row in rows if row.get("nats") is not None], "nats", "count"),
        entropy=mean("entropy"),
        repetition=mean("repetition"),
        scorer=perplexity,
        scorer_name=next((row["scorer"] for row in scored), ""),
        accuracy=mean("right", 100.0),
        unit=next((row["unit"] for row in rows if "unit" in row), "token"),
    )


def _ratio(rows: Sequence[dict[str, Any]], over: str, under: str) -> Estimate | None:
    """Ratio of two sums over answers, with its interval."""
    if not rows:
        return None
    top, bottom = (np.array([float(row[n]) for row in rows]) for n in (over, under))
    if not bottom.sum():
        return None
    value = float(top.sum() / bottom.sum())
    rest = (top - value * bottom) / bottom.mean()
    return Estimate(value, half_width(list(rest)))


def half_width(apart: Sequence[float]) -> float | None:
    """Half width of the mean's 95 % interval, by Student's t; None for fewer than two values."""
    known = [value for value in apart if not math.isnan(value)]
    if len(known) < 2:
        return None
    error = float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return float(student.ppf(0.975, len(known) - 1)) * error
