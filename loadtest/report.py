"""Writes the report of a run: HTML page, PNG charts and table; and compares two runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from loadtest.chart_model import Chart
from loadtest.charts import all_views, meets
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
QUALITY_HEAD = (
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
    tables = [load_table(run), *quality_tables(run)]
    path.write_text(page(title, answer(run), warnings(run), charts, tables, facts(run)))
    return path


def answer(run: Run) -> list[str]:
    """One sentence for each load: the most steps that meet the objective, and the gain and cost of
    the next higher step count.
    """
    sentences = []
    judged = measures(run.quality)
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
            sentences.append(
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
        sentences.append(words)
    return sentences


def warnings(run: Run) -> list[str]:
    """Reasons why the figures may be unreliable or incomplete."""
    found = []
    strained = [f"{f.setting.label} steps, {f.load.words}" for f in run.figures if f.strained]
    if strained:
        found.append(
            "The client itself was busy, so these are upper bounds of latency: "
            + "; ".join(strained)
        )
    if run.miscounted:
        found.append("Client and server count differently. " + "; ".join(run.miscounted))
    missing = len(run.plan.cells()) - sum(f.repeats for f in run.figures)
    if missing:
        found.append(f"{missing} cells of the plan have not been run. The same command goes on.")
    lost = [f for f in run.figures if f.failures]
    if lost:
        kinds = sorted({kind for f in lost for kind in f.failures})
        count = sum(sum(f.failures.values()) for f in lost)
        found.append(f"{count} requests failed or were given up: {', '.join(kinds)}.")
    return found


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
    """One row of the table of figures."""
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
    """Table of the figures of all cells."""
    most = max(f.repeats for f in run.figures)
    note = (
        f"± is the half width of a 95 % interval from {most} repeats (Student's t); figures are of "
        "all repeats together."
        if most > 1
        else "One repeat each, so there are no intervals: --repeats 3 gives some."
    )
    return Table("All figures", note, HEAD, [load_row(run, f) for f in run.figures])


def quality_tables(run: Run) -> list[Table]:
    """Tables of quality by setting; empty if none was measured."""
    if not run.quality:
        return []
    rows = []
    for setting in run.plan.settings:
        if (quality := run.quality.get(setting.name)) is None:
            continue
        share = quality.repetition
        if share is not None:
            half = None if share.half_width is None else 100 * share.half_width
            share = replace(share, value=100 * share.value, half_width=half)
        rows.append(
            [
                " ".join(part for part in (setting.label, "steps", setting.variant) if part),
                str(quality.answers),
                _plain(quality.nelbo, 3),
                _plain(quality.scorer),
                _plain(quality.entropy),
                _plain(share),
                _plain(quality.accuracy, 1),
            ]
        )
    units = {quality.unit for quality in run.quality.values()}
    names = {quality.scorer_name for quality in run.quality.values()} - {""}
    note = (
        "The bound is the model's own opinion of its text (/v1/score): low for what it expects, "
        "repetitions too. Entropy and repetition are of a text's own "
        f"{' and '.join(sorted(units))}s. "
        + (f"The judge is {', '.join(names)}." if names else "No judge was given (--scorer).")
        + " ± is a 95 % interval over answers."
    )
    return [Table("Quality by step count", note, QUALITY_HEAD, rows)]


def facts(run: Run) -> str:
    """The run's header as JSON, without the text of its prompts."""
    plan = {**run.header["plan"]}
    prompts = plan["workload"]["prompts"]
    plan["workload"] = {**plan["workload"], "prompts": f"{len(prompts)} prompts"}
    return json.dumps({**run.header, "plan": plan}, indent=2, ensure_ascii=False)


def compare(first: Run, second: Run, folder: Path) -> Path:
    """Write ``compare.html``, two runs side by side; returns its path."""
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
    sentences = [f"{a}: {line}" for line in answer(first)] + [
        f"{b}: {line}" for line in answer(second)
    ]
    path = folder / "compare.html"
    both = f"{facts(first)}\n\n{facts(second)}"
    path.write_text(page(f"{a} and {b}", sentences, [], charts, [table], both))
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
    for measure in measures(run.quality):
        if f.setting.name in measure.values:
            return _plain(measure.values[f.setting.name], 3)
    return "–"
