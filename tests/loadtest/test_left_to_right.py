"""A load test of a server that writes left to right: time to first token, and tokens a second."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.charts import all_views
from loadtest.commands import app
from loadtest.records import Folder
from loadtest.report_tables import load_table
from loadtest.summary import Objective, Run, read
from tests.loadtest.conftest import Command, Stubbed, stub_server

FIRST_MS, GAP_MS, TOKENS = 60, 10, 9


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Stubbed]:
    with stub_server(tmp_path_factory.mktemp("stub"), "--models") as found:
        yield found


@pytest.fixture(scope="module")
def swept(served: Stubbed, tmp_path_factory) -> Path:
    """One and three requests at a time; nine tokens, the first after 60 ms, then one in 10 ms."""
    out = tmp_path_factory.mktemp("swept") / "run"
    args = ["sweep", "--url", served.url, "--out", str(out), "--concurrency", "1,3"]
    args += ["--max-tokens", str(TOKENS), "--duration", "1s", "--warmup", "200ms"]
    args += ["--field", f"first_ms={FIRST_MS}", "--field", f"gap_ms={GAP_MS}"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, (done.output, done.exception)
    return out


@pytest.fixture
def run(swept) -> Run:
    return read(Folder(swept), Objective(95, 5))


def test_first_token_and_speed_are_those_of_the_servers_log(run, swept, served: Stubbed):
    log = served.requests()
    for f in run.figures:
        mine = [
            log[r.id]
            for cell in Folder(swept).cells()
            if f"_{f.load.name}_" in cell.name
            for r in cell.records
            if not r.warm
        ]
        assert len(mine) >= 3
        first = statistics.median(entry["first"] - entry["arrived"] for entry in mine)
        speed = statistics.median(
            (TOKENS - 1) / (entry["ended"] - entry["first"]) for entry in mine
        )
        assert first >= FIRST_MS / 1e3 and first <= f.settled_p50.value < first + 0.05
        assert speed <= 1e3 / GAP_MS and f.speed.value == pytest.approx(speed, rel=0.1)
        assert f.settled_p95.value >= f.settled_p50.value and not f.failures


def test_report_has_time_to_first_token_and_speed_instead_of_steps(run, swept, command: Command):
    assert run.left_to_right
    head = load_table(run).head
    assert "TTFT p50 ms" in head and "TTFT p95 ms" in head and "tokens/s of one" in head
    names = [chart.name for chart in all_views(run)]
    assert "streaming" in names and "phases" not in names
    (chart,) = [chart for chart in all_views(run) if chart.name == "streaming"]
    assert [panel.title for panel in chart.panels] == [
        "time to first token, median",
        "time to first token, p95",
        "speed of one answer, median",
    ]
    told = command("report", swept, "--slo", "p95=5s")
    assert "1 at a time: default settings (p95 " in told and "hold p95 ≤ 5 s" in told
    source = (swept / "report.html").read_text()
    assert "how much load can it take?" in source and '<p class="big">held</p>' in source
    told = command("report", swept, "--slo", "p95=5ms")
    assert "the server does not hold p95 ≤ 5 ms; with default settings, 0 %" in told
