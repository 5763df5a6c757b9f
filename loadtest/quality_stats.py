"""Quality statistics of settings from judged answers, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.intervals import Estimate, Interval, of_positive, of_proportion, of_share


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

    def share_of_best(self, setting: str) -> float:
        """The ratio of a setting's value to the best one, or its inverse: at most 1."""
        values = [estimate.value for estimate in self.values.values()]
        mine = self.values[setting].value
        return min(values) / mine if self.lower else mine / max(max(values), 1e-9)


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
    def known(name: str) -> list[float]:
        return [float(row[name]) for row in rows if name in row]

    scored = [row for row in rows if row.get("scorer_tokens")]
    nats = _ratio(scored, "scorer_nats", "scorer_tokens")
    return SettingQuality(
        answers=len(rows),
        nelbo=_ratio([row for row in rows if row.get("nats") is not None], "nats", "count"),
        entropy=_mean(known("entropy"), of_positive),
        repetition=_mean(known("repetition"), of_share),
        scorer=None if nats is None else _perplexity(nats),
        scorer_name=next((row["scorer"] for row in scored), ""),
        accuracy=_percent_right(known("right")),
        unit=next((row["unit"] for row in rows if "unit" in row), "token"),
    )


def _mean(values: Sequence[float], interval: Callable[..., Interval | None]) -> Estimate | None:
    mean = float(np.mean(values)) if values else math.nan
    return Estimate(mean, interval(mean, values)) if values else None


def _percent_right(values: Sequence[float]) -> Estimate | None:
    if not values:
        return None
    right = round(sum(values))
    return Estimate(right / len(values), of_proportion(right, len(values))).times(100)


def _perplexity(nats: Estimate) -> Estimate:
    interval = nats.interval and (math.exp(nats.interval[0]), math.exp(nats.interval[1]))
    return Estimate(math.exp(nats.value), interval)


def _ratio(rows: Sequence[dict[str, Any]], over: str, under: str) -> Estimate | None:
    """Ratio of two sums over answers, with its interval."""
    if not rows:
        return None
    top, bottom = (np.array([float(row[n]) for row in rows]) for n in (over, under))
    if not bottom.sum():
        return None
    value = float(top.sum() / bottom.sum())
    apart = (
        value + (top - value * bottom) / bottom.mean()
    )  # linear in each answer; their mean: value
    return Estimate(value, of_positive(value, apart.tolist()))
