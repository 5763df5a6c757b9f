"""Figures of runs that never were, against what can be worked out on paper."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from matplotlib.transforms import Bbox

from loadtest.answer_reader import KINDS
from loadtest.chart_drawing import cell_colour
from loadtest.chart_groups import meets
from loadtest.chart_model import Axis, Chart, Panel, Series
from loadtest.charts import all_views
from loadtest.charts_load import knee
from loadtest.charts_png import draw, save
from loadtest.charts_quality import front
from loadtest.cli_types import duration, fields, loads, numbers, objective
from loadtest.errors import Refusal
from loadtest.plan import Load, Planned
from loadtest.quality import entropy, repetition
from loadtest.quality_stats import measures
from loadtest.records import Folder, Record
from loadtest.report import answer, warnings
from loadtest.report_tables import load_table
from loadtest.summary import Objective, Run, read
from tests.loadtest.made_up import judged, plan_of, queueing, record, write

ONE, FOUR = Load("closed", 1), Load("closed", 4)
GOAL = Objective(90, 0.5)


def run_of(tmp_path, make, loads_=(ONE,), steps=(4,), repeats=1, goal=GOAL, quality=None) -> Run:
    plan = plan_of(steps, loads_, repeats)
    return read(write(tmp_path / "run", plan, make, quality), goal)


def hundred(planned: Planned) -> list[Record]:
    """Latencies of 10, 20, ... 1000 ms; a warm one, one that ends behind the window."""
    inside = [record(n, 0.05 * n, 0.01 * (n + 1)) for n in range(100)]
    return [record(100, -0.5, 0.7), *inside, record(101, 9.9, 0.3)]


def test_percentiles_rates_and_shares(tmp_path):
    (f,) = run_of(tmp_path, hundred).figures
    assert f.ok == 101 and f.failures == {}
    # 101 latencies: ten to a thousand by tens, and 300 once more
    assert f.p50.value == pytest.approx(0.5) and f.p95.value == pytest.approx(0.95)
    assert f.p99.value == pytest.approx(0.99) and f.p50.interval is None
    assert f.objective_at.value == pytest.approx(0.9)
    assert f.throughput.value == pytest.approx(101 / 10)  # the warm one ended in the window
    assert f.tokens.value == pytest.approx(1010 / 10)
    assert f.goodput.value == pytest.approx(50 / 10)
    assert f.attained == pytest.approx(51 / 101)
    assert f.settled_p50.value == pytest.approx(0.25)
    mean = (sum(range(1, 101)) * 0.01 + 0.3) / 101
    assert f.phases == pytest.approx(
        {"late": 0, "queue": mean / 4, "denoise": mean / 2, "stream": mean / 4}
    )


def test_failures_are_late_and_what_was_given_up_is_a_lower_bound(tmp_path):
    def make(planned: Planned) -> list[Record]:
        return [
            *(record(n, n / 10, 0.1) for n in range(80)),
            *(record(n, 9, 6.0, "gave up") for n in range(80, 90)),
            *(record(n, 9, 0.001, "HTTP 429 queue_full") for n in range(90, 100)),
        ]

    run = run_of(tmp_path, make)
    (f,) = run.figures
    assert f.attained == pytest.approx(0.8) and not meets(run, f)
    assert (f.p50.value, f.p50.at_least) == (pytest.approx(0.1), False)
    assert (f.p95.value, f.p95.at_least) == (pytest.approx(6.0), True)
    assert f.failures == {"gave up": 10, "HTTP 429 queue_full": 10}
    (row,) = load_table(run).rows
    assert ">6000" in row and "10 HTTP 429 queue_full, 10 gave up" in row
    assert any("20 requests failed" in words for words in warnings(run))


def test_intervals_come_from_repeats(tmp_path):
    def make(planned: Planned) -> list[Record]:
        return [record(n, n / 10, 0.1 * (planned.repeat + 1)) for n in range(50)]

    run = run_of(tmp_path, make, repeats=3)
    (f,) = run.figures
    assert f.p50.value == pytest.approx(0.2)
    assert f.p50.repeats == pytest.approx((0.1, 0.2, 0.3))
    # of 0.1, 0.2, 0.3: deviation 0.1; Student's t for two degrees of freedom is 4.3027
    factor = math.exp(4.3027 * 0.1 / math.sqrt(3) / 0.2)
    assert f.p50.interval == pytest.approx((0.2 / factor, 0.2 * factor), rel=1e-4)
    (row,) = load_table(run).rows
    assert "200 (58–693)" in row


def unequal(planned: Planned) -> list[Record]:
    """Repeats that differ by a factor of ten: with two of them Student's t is 12.7."""
    count = (80, 8, 60)[planned.repeat] * (2 if planned.load == FOUR else 1)
    return [record(n, 9.5 * n / count, 0.05 * (planned.repeat + 1)) for n in range(count)]


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_no_axis_shows_values_below_zero(tmp_path, repeats):
    plan = plan_of((4, 8), (ONE, FOUR, Load("open", 3)), repeats)
    run = read(write(tmp_path, plan, unequal, judged(plan)), GOAL)
    for f in run.figures:
        for estimate in (f.throughput, f.goodput, f.p95, f.tokens):
            assert (estimate.interval is None) == (repeats < 3)
            assert len(estimate.repeats) == repeats
    note = load_table(run).note
    assert ("from 3 repeats" in note) == (repeats == 3)
    for chart in all_views(run):
        if chart.name != "heat":
            for axes in draw(chart).axes:
                assert axes.get_ylim()[0] >= 0 and axes.get_xlim()[0] >= (
                    -0.5 if chart.name == "phases" else 0
                )


def test_chart_of_rates_shows_each_repeat(tmp_path):
    run = read(write(tmp_path, plan_of((4,), (ONE,), 2), unequal), GOAL)
    (chart,) = [chart for chart in all_views(run) if chart.name == "rates"]
    dots = [line for line in draw(chart).axes[0].lines if line.get_linestyle() == "None"]
    assert [np.asarray(line.get_ydata()).tolist() for line in dots] == [[8.0, 0.8]]


def test_colour_of_heat_map_turns_at_the_objective():
    def green(value: float) -> bool:
        red, rest, *_ = cell_colour(value, 0.5)
        return rest > red

    assert [green(value) for value in (1e-3, 0.2, 0.499, 0.5)] == [True] * 4
    assert [green(value) for value in (0.501, 1.0, 60.0, math.inf)] == [False] * 4
    below, above = cell_colour(0.5, 0.5), cell_colour(0.5001, 0.5)
    assert max(abs(a - b) for a, b in zip(below, above, strict=True)) > 0.1


@pytest.mark.parametrize("count", [3, 9, 24])
def test_labels_of_close_points_cover_neither_each_other_nor_points(count):
    chance = random.Random(count)
    x = [1 + chance.random() for _ in range(count)]
    y = [10 + 3 * chance.random() for _ in range(count)]
    labels = [str(2**i) for i in range(count)]
    series = Series("points", x, y, "#0f8b8d", "mark", labels)
    panel = Panel("", Axis("x", log=True), Axis("y"), [series], ("x", 1.5, "p95 ≤ 1.5 s"))
    (axes,) = draw(Chart("close", "Close?", "", [panel])).axes
    texts = [text for text in axes.texts if text.get_text() in labels]
    assert len(texts) == count
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not [other for other in boxes[:i] if Bbox.intersection(box, other)]
    inside = axes.get_window_extent()
    for text in texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0
        points = axes.transData.transform(list(zip(x, y, strict=True)))
        assert not any(box.contains(*point) for point in points)


def test_run_without_requests_in_its_window_has_no_figures(tmp_path):
    """A server so slow that no request fell into the window."""
    run = run_of(tmp_path, lambda planned: [record(0, -0.5, 20)], (ONE, FOUR), (4, 8))
    assert math.isnan(run.figures[0].p95.value)
    assert "no step count holds" in answer(run)[0]
    assert "–" in load_table(run).rows[0] and all_views(run)
    with pytest.raises(Refusal, match="no finished cell"):
        read(Folder(tmp_path), GOAL)


@pytest.mark.parametrize("content", [b'\xff{"a":', b'{"records": [1, 2', b"[]", b"{}\n", b"1\n"])
@pytest.mark.parametrize("name", ["run.json", "cells/s4_c1_0.jsonl", "quality.jsonl"])
def test_a_damaged_file_of_a_run_is_refused_by_its_name(tmp_path, command, name, content):
    plan = plan_of((4,), (ONE,))
    write(tmp_path / "run", plan, lambda planned: [record(0, 1, 2)], judged(plan))
    assert (tmp_path / "run" / name).exists()
    (tmp_path / "run" / name).write_bytes(content)
    said = command("report", tmp_path / "run", code=2)
    assert said.startswith("xdlm-loadtest:") and name.split("/")[-1] in said.replace(" ", "")


def test_texts_that_are_not_utf_8_and_an_empty_key_file_are_refused(tmp_path, command):
    (tmp_path / "bytes").write_bytes(b"\xff\n")
    (tmp_path / "empty").write_text("\n")
    goal = ("--url", "http://127.0.0.1:1", "--steps", 4, "--concurrency", 1)
    for flag, file, words in (
        ("--prompts", "bytes", "isnotUTF-8"),
        ("--api-key-file", "bytes", "isnotUTF-8"),
        ("--api-key-file", "empty", "hasnokey"),
    ):
        said = command("sweep", "--out", tmp_path, *goal, flag, tmp_path / file, code=2)
        assert words in said.replace(" ", "") and file in said.replace(" ", "")


def test_the_answer_names_the_most_steps_that_hold_the_objective(tmp_path):
    plan = plan_of((4, 8, 16, 32, 64), (ONE, FOUR), 2)
    run = read(write(tmp_path, plan, queueing, judged(plan)), Objective(95, 0.5))
    # alone a step takes 10 ms, at most 12.5; four at a time 19.9 to 25
    assert [meets(run, f) for f in run.figures if f.load == ONE] == [True] * 4 + [False]
    assert [meets(run, f) for f in run.figures if f.load == FOUR] == [True] * 3 + [False] * 2
    first, second = answer(run)
    assert first.startswith("1 at a time: 32 steps (p95 ") and "64 would take p95 " in first
    assert second.startswith("4 at a time: 16 steps (p95 ") and "nats a token" in second
    names = [chart.name for chart in all_views(run)]
    assert names == ["pareto", "heat", "rates", "knees", "latencies", "phases"]


@pytest.mark.parametrize("values", [[671.0, 671.2, 671.6], [8.1, 8.2], [499.0, 501.0]])
def test_a_chart_far_from_its_limit_shows_both(tmp_path, values):
    """All warnings are errors: matplotlib warns where text outside the axes leaves no room."""
    series = Series("4 steps", values, [1.0] * len(values), "#000000", "step")
    axes = (Axis("latency, ms", log=True), Axis("%"))
    panel = Panel("one", *axes, [series], ("x", 500.0, "500 ms"))
    chart = Chart("far", "Far?", "", [panel, panel])
    assert save(chart, tmp_path).stat().st_size > 5000
    left, right = draw(chart).axes[0].get_xlim()
    assert left < min(500, *values) and right > max(500, *values)


def test_the_front_leaves_out_what_another_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (3.0, 4.5), (2.5, 4.0), (4.0, 1.0)]
    assert front(points, lower=True) == [0, 1, 4]
    assert front(points, lower=False) == [0]
    assert front([(1.0, 50.0), (2.0, 70.0), (3.0, 60.0)], lower=False) == [0, 1]


def test_knees(tmp_path):
    """Closed: four at a time bring 2x, sixteen no more. Open: 20 a second is more than it can."""

    def make(planned: Planned) -> list[Record]:
        value = planned.load.value
        rate = (
            {1.0: 2.0, 4.0: 4.0, 16.0: 4.4}[value]
            if planned.load.loop == "closed"
            else min(value, 12)
        )
        due = 10 * (rate if planned.load.loop == "closed" else value)
        sent = [record(n, n * 10 / due, 0.2) for n in range(int(10 * rate))]
        return sent + [record(n, 9, 6, "gave up") for n in range(int(10 * rate), int(due))]

    loads_ = loads("1,4,16", "5,10,20")
    figures = run_of(tmp_path, make, loads_).figures
    closed = [f for f in figures if f.load.loop == "closed"]
    opened = [f for f in figures if f.load.loop == "open"]
    assert knee(closed) == 1 and knee(closed[:2]) is None
    assert [f.complete for f in opened] == [True, True, False] and knee(opened) == 1
    assert knee(opened[:2]) is None


def test_quality_is_weighed_by_tokens_and_the_judge_comes_first(tmp_path):
    plan = plan_of((4, 8), (ONE,))
    rows = judged(plan, judge=True)
    run = read(write(tmp_path, plan, hundred, rows), GOAL)
    scorer, nelbo = measures(run.quality)
    mine = [row for row in rows if row["setting"] == "s4"]
    assert nelbo.values["s4"].value == pytest.approx(sum(r["nats"] for r in mine) / 1600)
    assert scorer.title == "as teacher reads it"
    expected = math.exp(sum(r["scorer_nats"] for r in mine) / 1600)
    assert scorer.values["s4"].value == pytest.approx(expected)
    assert nelbo.values["s8"].value < nelbo.values["s4"].value


def test_entropy_and_repetition():
    assert entropy(list("abcd")) == pytest.approx(math.log(4)) and entropy("aaaa") == 0
    assert repetition(list("abcabcabc")) == pytest.approx(0.5)
    assert repetition([1, 2, 3]) == 0 and repetition([5] * 10) == pytest.approx(6 / 7)


def test_values_of_the_command_line():
    assert [duration(text) for text in ("500ms", "30s", "2m", "1.5")] == [0.5, 30, 120, 1.5]
    assert objective("p99.9=2s") == Objective(99.9, 2) and numbers("4,8", 1, 9, True) == [4, 8]
    assert fields(["a=1", "b=x", 'c={"d": [1]}', "e=x=y"]) == {
        "a": 1,
        "b": "x",
        "c": {"d": [1]},
        "e": "x=y",
    }
    assert [load.words for load in loads("4", "2.5")] == ["4 at a time", "2.5 a second"]
    assert set(KINDS) == {"completions", "chat", "trajectories", "images"}
