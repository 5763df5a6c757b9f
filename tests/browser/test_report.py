"""The load test's report in Chromium: real records, offline, wide and narrow, light and dark."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from playwright.sync_api import Page, expect

from loadtest.records import Folder
from loadtest.report import write
from loadtest.summary import Objective, read
from tests.browser.conftest import HERE
from tests.support.loadtests import extract_stories

pytestmark = pytest.mark.browser

DESKTOP = {"viewport": {"width": 1300, "height": 900}}
PHONE = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True}
TEXTS_THAT_TOUCH = """() => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent,
    text.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  const outside = texts.filter(([, box]) =>
    box.left < frame.left - 1 || box.right > frame.right + 1);
  const touch = texts.flatMap(([a, one], i) => texts.slice(0, i).filter(([, other]) =>
    one.left < other.right - 1 && other.left < one.right - 1 &&
    one.top < other.bottom - 1 && other.top < one.bottom - 1).map(([b]) => `${a} | ${b}`));
  return [...touch, ...outside.map(([text]) => `outside: ${text}`)].map((words) =>
    `${svg.getAttribute("aria-label")}: ${words}`);
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """Address of the report of five step counts under three loads."""
    folder = tmp_path_factory.mktemp("report")
    run = read(Folder(extract_stories(folder)), Objective(95, 0.8))
    return write(run, folder).as_uri()


def opened(report: str, watch, **options) -> Page:
    """The page, without a network."""
    watched = watch(SimpleNamespace(url=report), offline=True, **options)
    watched.page.goto(report)
    return watched.page


def findings(page: Page) -> list[str]:
    """All findings of axe-core."""
    page.evaluate((HERE / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{v['id']}: {n['html'][:200]}" for v in found["violations"] for n in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_report_is_accessible_and_fits(report, watch, scheme, device):
    page = opened(report, watch, color_scheme=scheme, **device)
    expect(page.locator("#limit")).to_be_visible()
    assert findings(page) == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert findings(page) == []
    width = device["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(TEXTS_THAT_TOUCH) == []


def test_answer_is_on_the_first_screen_of_a_phone(report, watch):
    page = opened(report, watch, **PHONE)
    for place in ("h1", "#objective", ".card >> nth=0", ".card >> nth=1"):
        expect(page.locator(place)).to_be_in_viewport(ratio=1)


def test_slider_chooses_the_steps_that_hold_its_limit(report, watch):
    page = opened(report, watch, **DESKTOP)
    slider, cards = page.locator("#objective"), page.locator(".card")
    answers = cards.locator(".big:visible")
    expect(page.locator("output")).to_have_text("800 ms")
    expect(answers).to_have_text(["16 steps", "4 steps", "not held"])
    expect(cards.first).to_contain_text("of 800 ms, 81 % of the best quality measured")
    slider.focus()
    page.keyboard.press("End")
    expect(answers).to_have_text(["64 steps"] * 2 + ["32 steps"])
    page.keyboard.press("Home")
    expect(answers).to_have_text(["not held"] * 3)
    limit = page.locator("output").inner_text()
    expect(slider).to_have_attribute("aria-valuetext", limit)
    expect(cards.last).to_contain_text(f"not {limit}")
    page.keyboard.press("ArrowRight")
    expect(page.locator("output")).not_to_have_text(limit)


def test_colours_of_charts_follow_the_theme(report, watch):
    def brightness(page: Page, what: str) -> int:
        script = "([what, part]) => getComputedStyle(document.querySelector(what))[part]"
        part = "backgroundColor" if what == "body" else "fill"
        colour = page.evaluate(script, [what, part])
        return sum(int(value) for value in colour[4:-1].split(",")) // 3

    for scheme, dark in (("light", False), ("dark", True)):
        page = opened(report, watch, color_scheme=scheme, **DESKTOP)
        assert (brightness(page, "body") < 60) == dark
        assert (brightness(page, "figure svg text") > 200) == dark


def test_samples_stand_side_by_side_and_the_conditions_are_folded(report, watch):
    page = opened(report, watch, **DESKTOP)
    boxes = [one.bounding_box() for one in page.locator(".samples >> nth=0 >> article").all()]
    tops = {round(box["y"]) for box in boxes if box}
    assert len(boxes) == 5 and len(tops) == 1
    expect(page.locator("pre")).to_be_hidden()
    page.get_by_text("Everything, as JSON").click()
    expect(page.locator("pre")).to_contain_text('"checkpoint_sha256"')
    expect(page.locator("dl")).to_contain_text("stories")


def test_report_without_scripts_has_the_answer_to_its_own_objective(report, watch):
    page = opened(report, watch, java_script_enabled=False)
    expect(page.locator("#limit")).to_be_hidden()
    expect(page.locator(".big:visible")).to_have_text(["16 steps", "4 steps", "not held"])
