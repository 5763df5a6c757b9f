"""Tables of figures: load, quality, and two runs compared."""

from __future__ import annotations

from loadtest.chart_groups import meets
from loadtest.html_report import Table
from loadtest.intervals import LEAST_VALUES, Estimate
from loadtest.quality_stats import measures
from loadtest.summary import Figures, Run

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


def load_table(run: Run, intervals: bool = True) -> Table:
    """Table of the figures of all cells."""
    most = max(f.repeats for f in run.figures)
    note = (
        f"In brackets: 95 % intervals from {most} repeats; figures are of all repeats together."
        if most >= LEAST_VALUES
        else f"No intervals: they need {LEAST_VALUES} repeats (--repeats {LEAST_VALUES})."
    )
    rows = [_load_row(run, f, intervals) for f in run.figures]
    return Table("All figures", note, list(rows[0]), [list(row.values()) for row in rows])


def _load_row(run: Run, f: Figures, intervals: bool) -> dict[str, str]:
    """One row, by the heads of its columns."""

    def plain(estimate: Estimate, digits: int = 2) -> str:
        return text_of(estimate, digits, intervals)

    def ms(estimate: Estimate) -> str:
        return plain(estimate.times(1e3), 0)

    sign = "✓" if meets(run, f) else "✗"
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(f.failures.items())) or "0"
    first = "TTFT" if run.left_to_right else "settled"
    row = {
        "load": f.load.words,
        "steps": f.setting.label,
        "variant": f.setting.variant or "–",
        "ok": str(f.ok),
        "failed": failed,
        "objective": f"{sign} {100 * f.attained:.0f} %",
        "p50 ms": ms(f.p50),
        "p95 ms": ms(f.p95),
        "p99 ms": ms(f.p99),
        f"{first} p50 ms": ms(f.settled_p50),
        f"{first} p95 ms": ms(f.settled_p95),
        "requests/s": plain(f.throughput),
        "tokens/s": plain(f.tokens, 0),
        "goodput/s": plain(f.goodput),
    }
    return row | ({"tokens/s of one": plain(f.speed, 1)} if run.left_to_right else {})


def quality_tables(run: Run) -> list[Table]:
    """Tables of quality by setting; empty if none was measured."""
    if not run.quality:
        return []
    rows = []
    for setting in run.plan.settings:
        if (quality := run.quality.get(setting.name)) is None:
            continue
        share = quality.repetition
        rows.append(
            [
                setting.words,
                str(quality.answers),
                text_of(quality.nelbo, 3),
                text_of(quality.scorer),
                text_of(quality.entropy),
                text_of(share and share.times(100)),
                text_of(quality.accuracy, 1),
            ]
        )
    units = {quality.unit for quality in run.quality.values()}
    names = {quality.scorer_name for quality in run.quality.values()} - {""}
    note = (
        "The bound is the model's own opinion of its text (/v1/score): low for what it expects, "
        "repetitions too. Entropy and repetition are of a text's own "
        f"{' and '.join(sorted(units))}s. "
        + (f"The judge is {', '.join(names)}." if names else "No judge was given (--scorer).")
        + " In brackets: 95 % intervals over answers."
    )
    return [Table("Quality by step count", note, QUALITY_HEAD, rows)]


def compared(first: Run, second: Run) -> Table:
    """Cells that both runs have, side by side."""
    theirs = {(f.setting, f.load): f for f in second.figures}
    rows = []
    for f in first.figures:
        if (other := theirs.get((f.setting, f.load))) is None:
            continue
        rows.append(
            [
                f.load.words,
                f"{f.setting.label} {f.setting.variant}".strip(),
                text_of(f.p95.times(1e3), 0),
                text_of(other.p95.times(1e3), 0),
                _ratio(other.p95, f.p95),
                text_of(f.throughput),
                text_of(other.throughput),
                _ratio(other.throughput, f.throughput),
                *(_quality(run, g) for run, g in ((first, f), (second, other))),
            ]
        )
    a, b = first.name, second.name
    head = ["load", "steps", f"p95 ms, {a}", b, "ratio", f"requests/s, {a}", b, "ratio"]
    head += [f"quality, {a}", b]
    note = "Cells that both runs have. A ratio with no overlap of the intervals has a star."
    return Table(f"{b} against {a}", note, head, rows)


def text_of(estimate: Estimate | None, digits: int = 2, interval: bool = True) -> str:
    """A value with its interval in brackets, and a sign if it is a lower bound."""
    if estimate is None or estimate.value != estimate.value:
        return "–"
    sign = ">" if estimate.at_least else ""
    around = ""
    if interval and estimate.interval is not None:
        low, high = estimate.interval
        around = f" ({low:.{digits}f}–{high:.{digits}f})"
    return f"{sign}{estimate.value:.{digits}f}{around}"


def _ratio(new: Estimate, old: Estimate) -> str:
    if not old.value or new.value != new.value or old.value != old.value:
        return "–"
    apart = False
    if new.interval is not None and old.interval is not None:
        apart = new.interval[0] > old.interval[1] or new.interval[1] < old.interval[0]
    return f"{new.value / old.value:.2f}x{'*' if apart else ''}"


def _quality(run: Run, f: Figures) -> str:
    for measure in measures(run.quality):
        if f.setting.name in measure.values:
            return text_of(measure.values[f.setting.name], 3)
    return "–"
