"""Writes the report of a run: HTML page, PNG charts and table; and compares two runs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest.answer_cards import cards, slider
from loadtest.chart_groups import by, meets
from loadtest.chart_model import Chart
from loadtest.charts import all_views
from loadtest.charts_png import save
from loadtest.html_report import Report, page
from loadtest.quality_stats import measures
from loadtest.report_tables import compared, load_table, quality_tables, text_of
from loadtest.summary import Figures, Run


def write(run: Run, folder: Path, pictures: Path | None = None) -> Path:
    """Write ``report.html`` and a PNG of each chart; returns the page's path."""
    charts = all_views(run)
    where = pictures or folder
    where.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        save(chart, where)
    path = folder / "report.html"
    diffusion = "how many steps can you afford?"
    question = "how much load can it take?" if run.left_to_right else diffusion
    report = Report(
        title=f"{run.name}: {question}",
        slider=slider([run]),
        cards=cards(run),
        charts=charts,
        tables=[load_table(run), *quality_tables(run)],
        facts=facts(run),
        warnings=warnings(run),
        samples=run.samples,
        images=run.plan.workload.kind == "images",
        conditions=conditions(run),
    )
    path.write_text(page(report))
    return path


def answer(run: Run) -> list[str]:
    """One sentence for each load: the most steps that meet the objective, and the gain and cost of
    the next higher step count.
    """
    sentences = []
    judged = measures(run.quality)
    for group in by(run, "load"):
        group.sort(key=lambda f: f.setting.steps or 0)
        load, variant = group[0].load, group[0].setting.variant
        held = [f for f in group if meets(run, f)]
        where = f"{load.words}{', ' + variant if variant else ''}"
        if not held:
            quick = group[0]
            nothing = "no step count holds" if quick.setting.steps else "the server does not hold"
            sentences.append(
                f"{where}: {nothing} {run.objective.words}; with "
                f"{quick.setting.phrase}, {100 * quick.attained:.0f} % of requests are in time."
            )
            continue
        best = held[-1]
        words = f"{where}: {best.setting.phrase} (p95 {_p95(best)} ms"
        for measure in judged:
            if best.setting.name in measure.values:
                words += f", {measure.values[best.setting.name].value:.3g} {measure.unit}"
        words += f") hold {run.objective.words}."
        after = group[group.index(best) + 1 :]
        if after:
            words += f" {after[0].setting.label} would take p95 {_p95(after[0])} ms"
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
    strained = [f"{f.setting.phrase}, {f.load.words}" for f in run.figures if f.strained]
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


def _p95(f: Figures) -> str:
    return text_of(f.p95.times(1e3), 0)


def conditions(run: Run) -> list[tuple[str, str]]:
    """The conditions of a run that a reader asks for first."""
    environment, plan = run.header["environment"], run.plan
    client = environment.get("client") or {}
    known = environment["model"].get("diffusion") or {}
    fields = ", ".join(f"{name} {value}" for name, value in plan.workload.fields.items())
    found = [
        ("model", ", ".join(filter(None, (environment["model"]["id"], known.get("dtype"))))),
        ("server", " ".join(str(v) for v in (environment["server"] or {}).values())),
        ("requests", f"{plan.workload.kind}, {plan.workload.max_tokens} tokens at most"),
        ("fields", fields),
        ("cells", f"{plan.duration:g} s, {plan.warmup:g} s of warm-up; {plan.repeats} of each"),
        ("client", f"{client.get('processor', '')}, {client.get('cores', '?')} cores"),
        ("date", _date(run.header.get("began"))),
    ]
    return [(name, value) for name, value in found if value.strip(", ")]


def _date(began: float | None) -> str:
    return "" if began is None else f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M} UTC"


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
    report = Report(
        title=f"{first.name} and {second.name}",
        slider=slider([first, second]),
        cards=[card for run in (first, second) for card in cards(run, run.name)],
        charts=charts,
        tables=[compared(first, second)],
        facts=f"{facts(first)}\n\n{facts(second)}",
    )
    path = folder / "compare.html"
    path.write_text(page(report))
    if (chart := next((c for c in charts if c.name == "pareto"), None)) is not None:
        save(replace(chart, name="compare"), folder)
    return path
