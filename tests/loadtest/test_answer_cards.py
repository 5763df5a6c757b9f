"""Cards: for every limit, the answer that reading the run with that objective gives."""

from __future__ import annotations

import math

import pytest

from loadtest.answer_cards import Card, Option, cards, slider
from loadtest.chart_groups import by, meets
from loadtest.plan import Load, Planned
from loadtest.records import Folder, Record
from loadtest.summary import Objective, Run, read
from tests.loadtest.made_up import plan_of, queueing, record, write
from tests.support.loadtests import extract_stories


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> Folder:
    return Folder(extract_stories(tmp_path_factory.mktemp("recorded")))


def chosen(card: Card, limit: float) -> Option | None:
    """The option that the page shows: the first whose limit is low enough."""
    return next((option for option in card.options if option.holds_from <= limit), None)


def most_steps(run: Run) -> list[str | None]:
    """For each load, the most steps that hold the run's objective."""
    held = [[f for f in group if meets(run, f)] for group in by(run, "load")]
    best = [max(group, key=lambda f: f.setting.steps or 0) if group else None for group in held]
    return [None if f is None else f.setting.phrase for f in best]


@pytest.mark.parametrize("percent", [50.0, 95.0, 99.9])
def test_cards_of_real_records_agree_with_the_run_read_at_each_limit(stories, percent):
    run = read(stories, Objective(percent, 0.5))
    made, limits = cards(run), slider([run])
    assert [card.load for card in made] == ["1 client", "4 clients", "16 clients"]
    for limit in limits.seconds[::12]:
        again = read(stories, Objective(percent, limit))
        shown = [chosen(card, limit) for card in made]
        assert [None if one is None else one.answer for one in shown] == most_steps(again)


def test_slider_reaches_from_no_answer_to_all_steps_and_has_the_own_limit(stories):
    run = read(stories, Objective(95, 0.5))
    made, limits = cards(run), slider([run])
    assert limits.seconds[limits.chosen] == 0.5 and limits.words[limits.chosen] == "500 ms"
    assert list(limits.seconds) == sorted(set(limits.seconds))
    assert len(set(limits.words)) == len(limits.words)
    assert all(chosen(card, limits.seconds[0]) is None for card in made)
    last = [chosen(card, limits.seconds[-1]) for card in made]
    assert [one and one.answer for one in last] == [card.options[0].answer for card in made]


def test_card_of_real_records_says_latency_quality_and_the_next_step_count(stories):
    (first, _, _) = cards(read(stories, Objective(95, 0.8)))
    option = chosen(first, 0.8)
    assert option is not None and option.answer == "16 steps"
    assert option.latency.startswith("p95 ") and option.latency.endswith(" ms")
    assert option.quality == "81 % of the best quality measured (13.1 perplexity)"
    assert option.further.startswith("32 steps would take p95 1.")


def test_card_of_few_requests_never_names_more_than_a_limit_that_holds(tmp_path):
    """Nineteen of twenty in 0.4 s, one in 10 s: interpolated, p95 is 0.88 s."""

    def make(planned: Planned) -> list[Record]:
        return [*(record(n, n / 10, 0.4) for n in range(19)), record(19, 0, 10.0)]

    run = read(write(tmp_path, plan_of((4,), (Load("closed", 1),)), make), Objective(95, 0.5))
    (f,) = run.figures
    assert f.p95.value == pytest.approx(0.88) and meets(run, f)
    (card,) = cards(run)
    assert card.options[0].latency == "p95 400 ms"


def test_settings_that_fail_hold_no_limit(tmp_path):
    """Six percent refused at 8 steps, five at 4: p95 can be held with 4 steps alone."""

    def make(planned: Planned) -> list[Record]:
        refused = 6 if planned.setting.steps == 8 else 5
        good = [record(n, n / 10, 0.1) for n in range(100 - refused)]
        return good + [record(n, 9, 0.001, "HTTP 429") for n in range(100 - refused, 100)]

    run = read(write(tmp_path, plan_of((4, 8), (Load("closed", 1),)), make), Objective(95, 0.5))
    (card,) = cards(run)
    assert [option.answer for option in card.options] == ["4 steps"]
    assert [f.holds_from for f in run.figures] == [pytest.approx(0.1), math.inf]
    none = read(write(tmp_path / "b", plan_of((8,), (Load("closed", 1),)), make), run.objective)
    (card,) = cards(none)
    assert card.options == [] and "too many requests fail" in card.otherwise
    assert slider([none]).seconds


def test_open_loops_that_are_not_kept_up_with_hold_no_limit(tmp_path):
    plan = plan_of((4, 64), (Load("open", 20),))
    run = read(write(tmp_path, plan, queueing), Objective(50, 100))
    kept, lost = run.figures
    assert kept.complete and not lost.complete
    assert math.isfinite(kept.holds_from) and lost.holds_from == math.inf
    (card,) = cards(run)
    assert card.load == "20 requests a second" and len(card.options) == 1
