"""What the answers of a run were worth: judged answers to figures, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Estimate:
    """A figure and the half width of its 95 % interval from repeats; None where there is one."""

    value: float
    half_width: float | None = None
    at_least: bool = False


@dataclass(frozen=True)
class Worth:
    """The quality of one setting; means over answers, None where something was not measured.

    Attributes:
        answers: how many were judged.
        nelbo: nats a token by the model's own bound.
        entropy: of a text's tokens, in nats.
        repetition: share of runs of four tokens that repeat an earlier one.
        scorer: perplexity under an independent judge.
        scorer_name: the judge's folder.
        accuracy: percent of images in which a classifier sees what was asked for.
        unit: what entropy and repetition count: tokens or words.
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
    """One measure of quality, of all settings.

    Attributes:
        title: what it is.
        unit: of its figures.
        lower: whether lower figures are better.
        values: by the settings' names.
    """

    title: str
    unit: str
    lower: bool
    values: Mapping[str, Estimate]


def measures(worth: Mapping[str, Worth]) -> list[Measure]:
    """Those measures of quality that step counts are judged by; the most independent first."""
    judge = next((w.scorer_name for w in worth.values() if w.scorer_name), "")
    found = [
        Measure(f"as {judge} reads it", "perplexity", True, _known(worth, "scorer")),
        Measure(
            "as the model itself reads it (bound)", "nats a token", True, _known(worth, "nelbo")
        ),
        Measure("as a classifier sees it", "% of images right", False, _known(worth, "accuracy")),
    ]
    return [measure for measure in found if measure.values]


def _known(worth: Mapping[str, Worth], field: str) -> dict[str, Estimate]:
    values = {name: getattr(w, field) for name, w in worth.items()}
    return {name: value for name, value in values.items() if value is not None}


def worth_of_settings(rows: Sequence[dict[str, Any]]) -> dict[str, Worth]:
    """Judged answers, by the names of their settings."""
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], []).append(row)
    return {name: _worth(mine) for name, mine in by_setting.items()}


def _worth(rows: Sequence[dict[str, Any]]) -> Worth:
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
    return Worth(
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
    """Sum over sum, with the interval of a ratio over answers."""
    if not rows:
        return None
    top, bottom = (np.array([float(row[n]) for row in rows]) for n in (over, under))
    if not bottom.sum():
        return None
    value = float(top.sum() / bottom.sum())
    rest = (top - value * bottom) / bottom.mean()
    return Estimate(value, half_width(list(rest)))


def half_width(apart: Sequence[float]) -> float | None:
    """Of the 95 % interval of the mean, by Student's t; None for fewer than two values."""
    known = [value for value in apart if not math.isnan(value)]
    if len(known) < 2:
        return None
    error = float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return float(student.ppf(0.975, len(known) - 1)) * error
