"""A run's folder to a page, pictures and a table; two of them side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from loadtest.chart_model import Chart
from loadtest.charts_plotly import all_views, meets
from loadtest.charts_png import save
from loadtest.html_report import Table, page
from loadtest.plan import Load
from loadtest.quality_stats import Estimate, measures
from loadtest.summary import Figures, Run

HEAD = (
    "load",
    "steps",
    "variant",
    "ok",
    "failed",
    "objective",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "settled p50 ms",
    "requests/s",
    "tokens/s",
    "goodput/s",
)
IN_TERMINAL = ("load", "steps", "ok", "failed", "objective", "p50 ms", "p95 ms", "requests/s")
WORTH_HEAD = (
    "setting",
    "answers",
    "bound, nats/token",
    "judge's perplexity",
    "entropy, nats",
    "repetition, %",
    "right, %",
)


def write(run: Run, folder: Path, pictures: Path | None = None) -> Path:
    """Write ``report.html`` and a PNG of each chart; returns the page's path."""
    charts = all_views(run)
    where = pictures or folder
    where.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        save(chart, where)
    path = folder / "report.html"
    title = f"{run.name}: how many steps can you afford?"
    tables = [load_table(run), *worth_tables(run)]
    path.write_text(page(title, answer(run), warnings(run), charts, tables, facts(run)))
    return path


def answer(run: Run) -> list[str]:
    """For each load, in a sentence: the most steps that hold the objective, and what more of them
    would buy and cost.
    """
    told = []
    judged = measures(run.worth)
    keys: list[tuple[str, Load]] = []
    for f in run.figures:
        if (f.setting.variant, f.load) not in keys:
            keys.append((f.setting.variant, f.load))
    for variant, load in keys:
        group = [f for f in run.figures if f.load == load and f.setting.variant == variant]
        group.sort(key=lambda f: f.setting.steps or 0)
        held = [f for f in group if meets(run, f)]
        where = f"{load.words}{', ' + variant if variant else ''}"
        if not held:
            quick = group[0]
            told.append(
                f"{where}: no step count holds {run.objective.words}; with {quick.setting.label} "
                f"steps, {100 * quick.attained:.0f} % of requests are in time."
            )
            continue
        best = held[-1]
        words = f"{where}: {best.setting.label} steps (p95 {_ms(best.p95)} ms"
        for measure in judged:
            if best.setting.name in measure.values:
                words += f", {measure.values[best.setting.name].value:.3g} {measure.unit}"
        words += f") hold {run.objective.words}."
        after = group[group.index(best) + 1 :]
        if after:
            words += f" {after[0].setting.label} would take p95 {_ms(after[0].p95)} ms"
            for measure in judged[:1]:
                if after[0].setting.name in measure.values and best.setting.name in measure.values:
                    here, there = (measure.values[g.setting.name].value for g in (best, after[0]))
                    words += f" and change quality from {here:.3g} to {there:.3g} {measure.unit}"
            words += "."
        told.append(words)
    return told


def warnings(run: Run) -> list[str]:
    """What a reader must know before believing the figures."""
    told = []
    strained = [f"{f.setting.label} steps, {f.load.words}" for f in run.figures if f.strained]
    if strained:
        told.append(
            "The client itself was busy, so these are upper bounds of latency: "
            + "; ".join(strained)
        )
    if run.miscounted:
        told.append("Client and server count differently. " + "; ".join(run.miscounted))
    missing = len(run.plan.cells()) - sum(f.repeats for f in run.figures)
    if missing:
        told.append(f"{missing} cells of the plan have not been run. The same command goes on.")
    lost = [f for f in run.figures if f.failures]
    if lost:
        kinds = sorted({kind for f in lost for kind in f.failures})
        count = sum(sum(f.failures.values()) for f in lost)
        told.append(f"{count} requests failed or were given up: {', '.join(kinds)}.")
    return told


def _ms(estimate: Estimate) -> str:
    if estimate.value != estimate.value:
        return "–"
    sign = ">" if estimate.at_least else ""
    return f"{sign}{1e3 * estimate.value:.0f}{_width(estimate, 1e3, 0)}"


def _plain(estimate: Estimate | None, digits: int = 2) -> str:
    if estimate is None or estimate.value != estimate.value:
        return "–"
    return f"{estimate.value:.{digits}f}{_width(estimate, 1, digits)}"


def _width(estimate: Estimate, factor: float, digits: int) -> str:
    half = estimate.half_width
    return "" if half is None else f" ± {factor * half:.{digits}f}"


def load_row(run: Run, f: Figures) -> list[str]:
    """A cell as a line of the table."""
    sign = "✓" if meets(run, f) else "✗"
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(f.failures.items())) or "0"
    return [
        f.load.words,
        f.setting.label,
        f.setting.variant or "–",
        str(f.ok),
        failed,
        f"{sign} {100 * f.attained:.0f} %",
        _ms(f.p50),
        _ms(f.p95),
        _ms(f.p99),
        _ms(f.settled_p50),
        _plain(f.throughput),
        _plain(f.tokens, 0),
        _plain(f.goodput),
    ]


def load_table(run: Run) -> Table:
    """All cells."""
    most = max(f.repeats for f in run.figures)
    note = (
        f"± is the half width of a 95 % interval from {most} repeats (Student's t); figures are of "
        "all repeats together."
        if most > 1
        else "One repeat each, so there are no intervals: --repeats 3 gives some."
    )
    return Table("All figures", note, HEAD, [load_row(run, f) for f in run.figures])


def worth_tables(run: Run) -> list[Table]:
    """Quality by setting, if any was measured."""
    if not run.worth:
        return []
    rows = []
    for setting in run.plan.settings:
        if (worth := run.worth.get(setting.name)) is None:
            continue
        share = worth.repetition
        if share is not None:
            half = None if share.half_width is None else 100 * share.half_width
            share = replace(share, value=100 * share.value, half_width=half)
        rows.append(
            [
                " ".join(part for part in (setting.label, "steps", setting.variant) if part),
                str(worth.answers),
                _plain(worth.nelbo, 3),
                _plain(worth.scorer),
                _plain(worth.entropy),
                _plain(share),
                _plain(worth.accuracy, 1),
            ]
        )
    units = {worth.unit for worth in run.worth.values()}
    names = {worth.scorer_name for worth in run.worth.values()} - {""}
    note = (
        "The bound is the model's own opinion of its text (/v1/score): low for what it expects, "
        "repetitions too. Entropy and repetition are of a text's own "
        f"{' and '.join(sorted(units))}s. "
        + (f"The judge is {', '.join(names)}." if names else "No judge was given (--scorer).")
        + " ± is a 95 % interval over answers."
    )
    return [Table("Quality by step count", note, WORTH_HEAD, rows)]


def facts(run: Run) -> str:
    """The header, but for the prompts."""
    plan = {**run.header["plan"]}
    prompts = plan["workload"]["prompts"]
    plan["workload"] = {**plan["workload"], "prompts": f"{len(prompts)} prompts"}
    return json.dumps({**run.header, "plan": plan}, indent=2, ensure_ascii=False)


def compare(first: Run, second: Run, folder: Path) -> Path:
    """Two runs side by side, as ``compare.html``; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    charts: list[Chart] = []
    for a, b in zip(all_views(first), all_views(second), strict=False):
        if a.name == b.name:
            panels = [
                replace(panel, title=" · ".join(part for part in (run.name, panel.title) if part))
                for run, chart in ((first, a), (second, b))
                for panel in chart.panels
            ]
            charts.append(replace(a, panels=panels))
    theirs = {(f.setting, f.load): f for f in second.figures}
    rows = []
    for f in first.figures:
        if (other := theirs.get((f.setting, f.load))) is None:
            continue
        rows.append(
            [
                f.load.words,
                f"{f.setting.label} {f.setting.variant}".strip(),
                _ms(f.p95),
                _ms(other.p95),
                _ratio(other.p95, f.p95),
                _plain(f.throughput),
                _plain(other.throughput),
                _ratio(other.throughput, f.throughput),
                *(_quality(run, g) for run, g in ((first, f), (second, other))),
            ]
        )
    a, b = first.name, second.name
    head = ["load", "steps", f"p95 ms, {a}", b, "ratio", f"requests/s, {a}", b, "ratio"]
    head += [f"quality, {a}", b]
    note = "Cells that both runs have. A ratio with no overlap of the intervals has a star."
    table = Table(f"{b} against {a}", note, head, rows)
    told = [f"{a}: {line}" for line in answer(first)] + [f"{b}: {line}" for line in answer(second)]
    path = folder / "compare.html"
    both = f"{facts(first)}\n\n{facts(second)}"
    path.write_text(page(f"{a} and {b}", told, [], charts, [table], both))
    if (chart := next((c for c in charts if c.name == "pareto"), None)) is not None:
        save(replace(chart, name="compare"), folder)
    return path


def _ratio(new: Estimate, old: Estimate) -> str:
    if not old.value or new.value != new.value or old.value != old.value:
        return "–"
    widths = [e.half_width for e in (new, old)]
    known = [w for w in widths if w is not None]
    apart = len(known) == 2 and abs(new.value - old.value) > sum(known)
    return f"{new.value / old.value:.2f}x{'*' if apart else ''}"


def _quality(run: Run, f: Figures) -> str:
    for measure in measures(run.worth):
        if f.setting.name in measure.values:
            return _plain(measure.values[f.setting.name], 3)
    return "–"
