"""The HTML page: all of its text, escaped, in one file that loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.answer_cards import Card, Option, Slider
from loadtest.chart_model import Axis, Chart, Panel, Series
from loadtest.charts_svg import for_dark
from loadtest.html_report import Report, Table, page
from loadtest.plan import Load, Setting
from loadtest.records import Folder
from loadtest.report import compare, write
from loadtest.samples import Sample
from loadtest.summary import Objective, Run, read
from tests.loadtest.made_up import judged, plan_of, queueing
from tests.loadtest.made_up import write as write_run
from tests.support.loadtests import extract_stories

MARKUP = "<b onclick='x'>&amp; \"{{ 7 * 7 }}\""
CLIENTS = ("1 client", "4 clients", "16 clients")
MOST_BYTES = 1_500_000


class Page(HTMLParser):
    """Texts by enclosing tag and its class, without scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.links: list[str | None] = []
        self.ids: list[str] = []
        self._open = ("", "")
        self.feed(source)

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self._open = (tag, given.get("class") or "")
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.ids += [given["id"] or ""] if "id" in given else []

    def handle_data(self, data) -> None:
        if data.strip() and self._open[0] not in ("script", "style"):
            self.found.append((self._open[0], self._open[1], data.strip()))

    def texts(self, tag: str) -> list[str]:
        return [text for found, _, text in self.found if found == tag]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Folder:
    return Folder(extract_stories(tmp_path_factory.mktemp("recorded")))


@pytest.fixture(scope="module")
def stories(recorded) -> Run:
    return read(recorded, Objective(95, 0.8))


@pytest.fixture(scope="module")
def written(stories, tmp_path_factory) -> Path:
    """The report of real records."""
    return write(stories, tmp_path_factory.mktemp("written"))


def test_texts_are_complete_and_escaped():
    series = Series(f"{MARKUP} line", [1.0], [3.0], "#000000", labels=["8"], hover=[MARKUP])
    chart = Chart("c", "A chart?", MARKUP, [Panel(MARKUP, Axis("x"), Axis("y"), [series])])
    table = Table("Figures", "a note", ["load", MARKUP], [["1", "✓ 99 %"], [MARKUP, "✗ 3 %"]])
    option = Option(0.4, MARKUP, MARKUP, MARKUP, MARKUP)
    report = Report(
        title=MARKUP,
        slider=Slider("p95", [0.3, 0.5], ["300 ms", MARKUP], 1),
        cards=[Card(MARKUP, [option], MARKUP)],
        charts=[chart],
        tables=[table],
        facts=f"{MARKUP}\n  facts",
        warnings=[MARKUP],
        samples=[Sample(MARKUP, 3, {Setting(4, None): MARKUP, Setting(8, 0.1): "two"})],
        conditions=[(MARKUP, MARKUP)],
    )
    source = page(report)
    shown = Page(source)
    assert shown.texts("h1") == shown.texts("output") == [MARKUP]
    assert shown.texts("title") == [MARKUP, MARKUP]  # of the page, and of a point of the chart
    assert ("p", "warning", MARKUP) in shown.found and ("p", "text", MARKUP) in shown.found
    assert shown.texts("h2") == [
        MARKUP,
        "A chart?",
        "How do the answers read?",
        "Figures",
        "How it was measured",
    ]
    assert shown.texts("h3") == ["4 steps", "8 steps, k = 0.1"]
    assert shown.texts("figcaption") == shown.texts("dt") == shown.texts("dd") == [MARKUP]
    assert shown.texts("th") == ["load", MARKUP]
    assert [(kind, text) for tag, kind, text in shown.found if tag == "td"] == [
        ("", "1"),
        ("good", "✓ 99 %"),
        ("", MARKUP),
        ("bad", "✗ 3 %"),
    ]
    assert shown.texts("pre") == [f"{MARKUP}\n  facts"]
    assert shown.links == ["data:,"] and not shown.texts("b")
    assert "</script><b" not in source


def test_report_of_real_records_is_small_and_loads_nothing(written):
    source = written.read_text()
    assert len(source.encode()) < MOST_BYTES
    shown = Page(source)
    references = [link for link in shown.links if link is not None]
    assert all(link.startswith(("#", "data:")) for link in references)
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?!#)", source)
    assert len(shown.ids) == len(set(shown.ids))
    assert source.count("<svg ") == 12  # 2 measures, a heat map, 2 rates, a knee, 3 loads twice


def test_report_of_real_records_shows_the_same_request_at_each_step_count(
    recorded, stories, written
):
    shown = Page(written.read_text())
    assert len(stories.samples) == 3
    for sample in stories.samples:
        assert [setting.steps for setting in sample.answers] == [4, 8, 16, 32, 64]
        for text in sample.answers.values():
            assert ("p", "text", text.strip()) in shown.found
    assert len({sample.prompt for sample in stories.samples}) == 3
    assert shown.texts("h3") == [f"{steps} steps" for steps in (4, 8, 16, 32, 64)] * 3
    answers = {(record.seed, record.text) for cell in recorded.cells() for record in cell.records}
    for sample in stories.samples:
        assert {(sample.seed, text) for text in sample.answers.values()} <= answers


@pytest.mark.slow
def test_large_run_stays_below_the_limit(tmp_path):
    """Six step counts under four loads, with thousands of requests."""
    loads = (Load("closed", 1), Load("closed", 4), Load("closed", 32), Load("open", 20))
    plan = plan_of((1, 2, 4, 8, 16, 32), loads)
    folder = write_run(tmp_path / "run", plan, queueing, judged(plan))
    path = write(read(folder, Objective(95, 0.3)), tmp_path)
    assert len(path.read_bytes()) < MOST_BYTES


def test_two_real_runs_compared_have_cards_of_both(stories, tmp_path):
    path = compare(stories, stories, tmp_path)
    shown = Page(path.read_text())
    assert shown.texts("h2")[:6] == [f"stories, {words}" for words in CLIENTS] * 2
    assert len(path.read_bytes()) < MOST_BYTES and len(shown.ids) == len(set(shown.ids))


@pytest.mark.parametrize("colour", ["#17255a", "#0f8b8d", "#22252b", "#3d6fb6"])
def test_colours_of_the_dark_theme_are_lighter(colour):
    def brightness(text: str) -> int:
        return sum(int(text[i : i + 2], 16) for i in (1, 3, 5))

    assert brightness(for_dark(colour)) > max(300, brightness(colour))
