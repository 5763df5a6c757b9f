"""The measurements of a device, at small shapes on a CPU."""

from __future__ import annotations

import io
import json
import time

import pytest

from benchmarks.device.__main__ import SECTIONS, main, run
from benchmarks.device.networks import Bench
from benchmarks.device.predictions import PREDICTED_SECONDS
from benchmarks.device.report import OUT_OF_TIME, TABLE_LINES, Report
from benchmarks.device.rows import reading

FIELDS = [
    *("section", "case", "variant", "device", "seconds", "kernels"),
    *("busy_ms", "peak_mib", "ok", "note"),
]


def report_until(seconds: float) -> Report:
    return Report(io.StringIO(), "cpu", time.monotonic() + seconds)


def test_a_section_runs_on_a_cpu_and_verifies(tmp_path, capsys):
    out = tmp_path / "device.jsonl"
    arguments = ["--device", "cpu", "--small", "--only", "4,7", "--out", str(out)]
    assert main([*arguments, "--minutes", "9"]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(r["ok"] and list(r) == FIELDS for r in records)
    timed = {(r["section"], r["variant"]) for r in records if r["seconds"]}
    assert {(4, "reference"), (4, "eager")} <= timed
    assert "predicted" in capsys.readouterr().out


@pytest.mark.slow
def test_every_section_runs_on_a_cpu_and_verifies(tmp_path, capsys):
    out = tmp_path / "device.jsonl"
    status = main(["--device", "cpu", "--small", "--minutes", "9", "--out", str(out)])
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r for r in records if not r["ok"]] == [] and status == 0
    assert {r["section"] for r in records} == SECTIONS.keys()
    assert all(list(r) == FIELDS for r in records)
    built = {r["section"] for r in records if not r["note"].startswith("skipped")}
    assert built == SECTIONS.keys() - {1}  # kernels are for cards
    timed = {(r["section"], r["variant"]) for r in records if r["seconds"]}
    assert {(n, v) for n in (4, 5, 6, 8) for v in ("reference", "eager", "graph", "fused")} <= timed
    assert {(7, v) for v in ("reference", "eager", "graph", "fused")} <= timed
    assert {(n, v) for n in (4, 5) for v in ("fp8", "eager-fp8")} <= timed
    assert {(9, "eager"), (9, "graph"), (10, "together"), (10, "churn"), (12, "served")} <= timed
    printed = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(printed) if "predicted" in line)
    assert len(printed) - head <= TABLE_LINES


def test_rows_are_read_and_timed_both_ways():
    report = report_until(60)
    report.begin(1, 60)
    reading(Bench("cpu", True, report))
    assert [(r["variant"], r["ok"], bool(r["seconds"])) for r in report.records] == [
        ("fused", True, False),
        ("eager", True, True),
        ("fused", True, True),
    ]


def test_run_without_time_skips_its_sections_and_says_so():
    report = report_until(-1)
    run(Bench("cpu", True, report), list(SECTIONS))
    assert [r["note"] for r in report.records] == [OUT_OF_TIME] * len(SECTIONS)


def test_section_that_raises_is_recorded_and_the_next_one_runs():
    report = report_until(60)
    run(Bench("no such device", True, report), [0, 7])
    failed = [r for r in report.records if not r["ok"]]
    assert [(r["section"], "no such device" in r["note"]) for r in failed] == [(0, True), (7, True)]


def test_variant_that_fails_a_verification_is_not_ok_from_then_on():
    report = report_until(60)
    report.begin(2, 60)
    report.add("before", "graph", seconds=[1.0])
    report.verify("tokens", "graph", False, "97 % of the tokens")
    report.add("after", "graph", seconds=[1.0])
    report.add("after", "eager", seconds=[1.0])
    assert [r["ok"] for r in report.records] == [True, False, False, True]
    assert "97 %" in report.records[2]["note"]
    assert isinstance(report.file, io.StringIO) and report.file.getvalue().count("\n") == 4


def test_table_keeps_figures_and_failures_and_shows_predictions():
    report = report_until(60)
    report.begin(4, 60)
    for i in range(100):
        report.verify(f"check {i}", "eager", True, "equal")
    case, variant = next(iter(PREDICTED_SECONDS))
    report.add(case, variant, seconds=[1.0, 2.0, 4.0])
    report.verify("last", "fused", False, "different")
    table = report.table()
    assert len(table) == TABLE_LINES
    (line,) = (x for x in table if case in x)
    assert "2 s" in line and f"{PREDICTED_SECONDS[case, variant]:.4g} s" in line
    assert any("NOT OK" in x for x in table)


@pytest.mark.parametrize("only", ["13", "4,-1"])
def test_unknown_section_is_refused(only, capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--only", only])
    assert "sections are 0 to 12" in capsys.readouterr().err
