"""Computes latency, throughput, goodput, phases and quality of each cell from its records.

Latency counts from the time at which a request was due. Failures are counted and have no latency,
except requests that the client gave up: they are in the percentiles with the time they had taken by
then, a lower bound of their latency. Percentiles that this affects are marked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest.errors import Refusal
from loadtest.files import undamaged
from loadtest.intervals import Estimate, of_positive
from loadtest.plan import Load, Plan, Setting
from loadtest.quality_stats import SettingQuality, quality_by_setting
from loadtest.reconcile import against_counters
from loadtest.records import GAVE_UP, Cell, Folder, Record
from loadtest.samples import Sample, samples


@dataclass(frozen=True)
class Objective:
    """A latency objective: ``percent`` of the requests end within ``seconds`` (``p95=500ms``)."""

    percent: float
    seconds: float

    @property
    def words(self) -> str:
        """Text in reports."""
        return f"p{self.percent:g} ≤ {milliseconds(self.seconds)}"


@dataclass(frozen=True)
class Figures:
    """Figures of one setting under one load, in seconds, requests or tokens per second.

    Attributes:
        ok: number of requests that succeeded.
        failures: numbers of the others, by kind.
        latencies: of requests that succeeded or were given up, sorted.
        given_up: number of requests that were given up.
        attained: share of all requests that succeeded within the objective.
        holds_from: least limit in seconds at which the objective's percentage of all requests
            succeed in time; infinite if too many fail, or the server does not keep up.
        settled_p50: seconds until the first text that will not change (TTFT where text is written
            left to right).
        speed: median over requests of tokens a second after the first text.
        phases: mean seconds: late (in the client), queue, denoise, stream (the rest).
        complete: whether the server kept up with the rate (open loops).
        strained: whether the client was too busy for reliable figures.
    """

    setting: Setting
    load: Load
    repeats: int
    ok: int
    failures: Counter[str]
    latencies: list[float]
    given_up: int
    p50: Estimate
    p95: Estimate
    p99: Estimate
    objective_at: Estimate
    settled_p50: Estimate
    settled_p95: Estimate
    speed: Estimate
    throughput: Estimate
    tokens: Estimate
    goodput: Estimate
    attained: float
    holds_from: float
    phases: dict[str, float]
    complete: bool
    strained: bool


@dataclass(frozen=True)
class Run:
    """Figures of a whole run.

    Attributes:
        quality: by names of settings.
        miscounted: messages about cells whose server counters disagree with the client.
        samples: answers of all settings to the same requests.
    """

    name: str
    header: dict[str, Any]
    plan: Plan
    objective: Objective
    figures: list[Figures]
    quality: dict[str, SettingQuality]
    miscounted: list[str]
    samples: list[Sample]

    @property
    def left_to_right(self) -> bool:
        """Whether the server does not describe its model as a diffusion model."""
        return self.header["environment"]["model"].get("diffusion") is None


LAG_LIMIT_MS, CPU_LIMIT = 25.0, 0.8
KEEPS_UP = 0.95


def read(folder: Folder, objective: Objective) -> Run:
    """Figures of the run in a folder.

    Raises:
        Refusal: the folder has no run, no cell is finished, or a file is damaged.
    """
    header = folder.header()
    cells = {cell.name: cell for cell in folder.cells()} if header else {}
    if header is None or not cells:
        raise Refusal(f"{folder.path} has no finished cell of a run")
    with undamaged(folder.path / "run.json"):
        plan = Plan.read(header["plan"])
    groups: dict[tuple[Setting, Load], list[Cell]] = {}
    for planned in plan.cells():
        if planned.name in cells:
            key = (planned.setting, planned.load)
            groups.setdefault(key, []).append(cells[planned.name])
    order = [(s, load) for s in plan.settings for load in plan.loads]
    figures = [_figures(*key, groups[key], objective) for key in order if key in groups]
    quality = quality_by_setting(folder.quality())
    messages = [against_counters(cell, plan.workload.kind) for cell in cells.values()]
    miscounted = [words for words in messages if words is not None]
    name = folder.path.resolve().name
    found = samples(list(cells.values()), plan)
    return Run(name, header, plan, objective, figures, quality, miscounted, found)


def milliseconds(seconds: float) -> str:
    """Time as text: 87 ms, 1.25 s."""
    return f"{1e3 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _estimate(value: float, apart: Sequence[float]) -> Estimate:
    return Estimate(value, of_positive(value, apart), repeats=tuple(apart))


def _figures(setting: Setting, load: Load, cells: Sequence[Cell], objective: Objective) -> Figures:
    counted = [[r for r in cell.records if not r.warm] for cell in cells]
    together = [r for records in counted for r in records]
    ok = [r for r in together if r.failure is None]

    def pooled(of: Callable[[Sequence[Record]], float]) -> Estimate:
        """A figure over all repeats; its interval from the single repeats."""
        return _estimate(of(together), [of(records) for records in counted])

    def rate(weight: Callable[[Record], float]) -> Estimate:
        """A rate over requests that ended in the window, warm ones included."""
        apart = [
            sum(
                weight(r)
                for r in cell.records
                if not r.failure and 0 <= r.ended <= cell.summary.seconds
            )
            / cell.summary.seconds
            for cell in cells
        ]
        return _estimate(float(np.mean(apart)), apart)

    def at(percent: float) -> Estimate:
        found = pooled(lambda records: percentile(_latencies(records), percent))
        given_up = [r.latency for r in together if r.failure == GAVE_UP]
        below = bool(given_up) and found.value >= min(given_up)
        return replace(found, at_least=below)

    latencies = sorted(_latencies(together))
    counted_tokens = any(r.tokens is not None for r in ok)
    seconds = sum(cell.summary.seconds for cell in cells)
    throughput = rate(lambda r: 1.0)
    complete = load.loop == "closed" or throughput.value >= KEEPS_UP * len(together) / seconds
    return Figures(
        setting=setting,
        load=load,
        repeats=len(cells),
        ok=len(ok),
        failures=Counter(r.failure for r in together if r.failure is not None),
        latencies=latencies,
        given_up=sum(r.failure == GAVE_UP for r in together),
        p50=at(50),
        p95=at(95),
        p99=at(99),
        objective_at=at(objective.percent),
        settled_p50=pooled(lambda records: percentile(_settled(records), 50)),
        settled_p95=pooled(lambda records: percentile(_settled(records), 95)),
        speed=pooled(lambda records: percentile(_speeds(records), 50)),
        throughput=throughput,
        tokens=rate(lambda r: r.tokens or 0) if counted_tokens else Estimate(math.nan),
        goodput=rate(lambda r: float(r.latency <= objective.seconds)),
        attained=sum(r.latency <= objective.seconds for r in ok) / max(1, len(together)),
        holds_from=_holds_from(ok, len(together), objective.percent) if complete else math.inf,
        phases=_phases(ok),
        complete=complete,
        strained=any(
            c.summary.lag_p99_ms > LAG_LIMIT_MS or c.summary.cpu_share > CPU_LIMIT for c in cells
        ),
    )


def _holds_from(ok: Sequence[Record], count: int, percent: float) -> float:
    """Least limit at which ``percent`` of ``count`` requests, ``ok`` among them, are in time."""
    needed = max(1, math.ceil(percent * count / 100 - 1e-9))
    latencies = sorted(r.latency for r in ok)
    return latencies[needed - 1] if needed <= len(latencies) else math.inf


def _latencies(records: Sequence[Record]) -> list[float]:
    return [r.latency for r in records if r.failure in (None, GAVE_UP)]


def _settled(records: Sequence[Record]) -> list[float]:
    return [r.settled - r.intended for r in records if r.settled is not None]


def _speeds(records: Sequence[Record]) -> list[float]:
    """Tokens a second of each answer after its first text, where the server counts tokens."""
    return [
        (r.tokens - 1) / (r.ended - r.settled)
        for r in records
        if not r.failure and r.tokens and r.settled is not None and r.ended > r.settled
    ]


def _phases(records: Sequence[Record]) -> dict[str, float]:
    timed = [r for r in records if r.queue_ms is not None and r.denoise_ms is not None]
    if not timed:
        return {}
    late = float(np.mean([r.sent - r.intended for r in timed]))
    queue = float(np.mean([r.queue_ms or 0.0 for r in timed])) / 1e3
    denoise = float(np.mean([r.denoise_ms or 0.0 for r in timed])) / 1e3
    whole = float(np.mean([r.latency for r in timed]))
    stream = max(0.0, whole - late - queue - denoise)
    return {"late": late, "queue": queue, "denoise": denoise, "stream": stream}


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile, linear between order statistics; NaN if there are no values."""
    return float(np.percentile(values, percent)) if values else math.nan
