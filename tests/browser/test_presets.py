"""The first screen plays by itself; its presets show what they promise."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import canvas_text, settled

pytestmark = pytest.mark.browser


def test_the_first_screen_plays_without_work_for_the_server(served, watch):
    watched = watch(served)
    asked: list[str] = []
    watched.context.on("request", lambda request: asked.append(request.url))
    page = watched.open(settings=False)
    masks = page.locator("#hero .tok.mask")
    expect(masks.first).to_be_visible()
    while masks.count() >= 8:
        page.wait_for_timeout(50)
    assert not [url for url in asked if "/v1/" in url and not url.endswith("/v1/models")]
    page.get_by_role("button", name="Pause").click()
    before = page.locator("#hero").inner_html()
    page.wait_for_timeout(400)
    assert page.locator("#hero").inner_html() == before
    page.get_by_role("button", name="Play", exact=True).click()
    expect(masks).to_have_count(0)


def test_without_motion_the_first_screen_rests_at_the_end(served, watch):
    page = watch(served, reduced_motion="reduce").open(settings=False)
    expect(page.locator("#hero .tok").first).to_be_visible()
    assert page.locator("#hero .tok.mask").count() == 0
    expect(page.locator("#hero").get_by_role("button", name="Pause")).to_be_hidden()


def test_the_race_is_by_time_and_says_who_is_done(served, watch):
    page = watch(served).open(settings=False)
    page.get_by_role("button", name=re.compile("^Race")).click()
    settled(page, 2)
    expect(page.locator(".pane h2").first).to_have_text("Left to right: a token a step")
    expect(page.get_by_role("radio", name="By time")).to_be_checked()
    expect(page.locator("#said")).to_contain_text("each alone on this server")
    page.locator("body").press("End")
    clocks = page.locator(".clock")
    expect(clocks).to_have_count(2)
    for i in (0, 1):
        expect(clocks.nth(i)).to_have_text(re.compile(r"^⚑ [\d.]+ m?s$"))
    page.keyboard.press("Home")
    written = [0]
    for _ in range(12):  # from left to right, one a step
        page.keyboard.press("ArrowRight")
        masks = (
            page.locator(".pane")
            .first.locator(".tok")
            .evaluate_all("nodes => nodes.map((node) => node.classList.contains('mask'))")
        )
        first = masks.index(True)
        assert all(masks[first:])
        written.append(first)
    assert written[-1] > written[1]


@pytest.mark.parametrize(
    ("name", "panes"), [("8, 16, 32 or 64 steps", 4), ("Change its mind", 3), ("Sure enough", 2)]
)
def test_a_preset_of_several_runs_shows_them_all(served, watch, name, panes):
    page = watch(served).open(settings=False)
    page.get_by_role("button", name=name).click()
    settled(page, panes)
    expect(page.locator(".pane")).to_have_count(panes)
    expect(page.locator("[name=seed]")).to_have_value("6")


def test_a_preset_of_images_takes_the_model_that_makes_them(served, watch):
    page = watch(served).open(settings=False)
    page.get_by_role("button", name="All ten digits at once").click()
    expect(page.locator("canvas.image")).to_have_count(10)
    settled(page)
    expect(page.locator("[name=model]")).to_have_value("digits")
    for digit in range(10):
        expect(page.locator("canvas.image").nth(digit)).to_have_accessible_name(
            f"Image {digit + 1} of class {digit}"
        )
    expect(page).to_have_url(re.compile(r"#run=\w+"))  # which repeats it
    page.reload()
    settled(page)
    expect(page.locator("canvas.image")).to_have_count(10)


def test_json_by_a_schema_is_valid_in_eight_steps(served, watch):
    page = watch(served).open(settings=False)
    page.get_by_role("button", name="Valid JSON in 8 steps").click()
    settled(page, 2)
    page.locator("body").press("End")
    scene = json.loads(canvas_text(page).partition("in the park.")[2])
    assert set(scene) == {"hero", "animal", "place", "friends", "happy"}
    assert scene["animal"] in ("dog", "cat", "bird", "bear") and 1 <= scene["friends"] <= 9
    expect(page.locator(".pane h2").nth(1)).to_have_text("The same without it")
    expect(page.locator(".pane").first.locator("[data-name=step] dd")).to_have_text("8 / 8")


def test_the_dial_sets_the_steps_and_estimates_their_time(served, watch):
    page = watch(served).open()
    dial = page.get_by_role("slider", name="Steps, on a dial")
    expect(page.locator("#estimate")).to_have_text("32 steps")
    dial.press("Home")
    dial.press("ArrowRight")
    dial.press("ArrowRight")
    expect(page.locator("[name=steps]")).to_have_value("4")
    page.locator("[name=max_tokens]").fill("16")
    page.get_by_role("button", name="Generate").click()
    settled(page)
    expect(page.locator("#estimate")).to_have_text(re.compile(r"^4 steps, about [\d.]+ m?s$"))


def test_a_question_mark_lists_keys_and_words(served, watch):
    page = watch(served).open(settings=False)
    page.locator("body").press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("a step back, a step on")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_every_setting_has_a_line_of_help(served, watch):
    page = watch(served).open()
    for field in page.locator(".fields [data-field]").all():
        control = field.locator("input, select")
        expect(control).to_have_accessible_description(re.compile(r"\w{3}"))


def test_each_sampler_has_a_picture_that_moves(served, watch):
    page = watch(served).open()
    picker = page.locator("[name=sampler]")
    pictures = set()
    for name in picker.locator("option").all_inner_texts():
        picker.select_option(label=name)
        picture = page.locator(f".rule[data-rule={name.replace(' ', '_')}]")
        expect(picture.locator("i")).to_have_count(12)
        pictures.add(page.locator("#help-sampler").inner_text())
    assert len(pictures) == picker.locator("option").count() >= 6
    before = page.locator(".rule").inner_html()
    page.wait_for_function(
        "before => document.querySelector('.rule').innerHTML !== before", arg=before
    )


def test_without_motion_the_picture_of_a_sampler_shows_its_steps(served, watch):
    page = watch(served, reduced_motion="reduce").open()
    rows = page.locator(".rule-row")
    assert rows.count() >= 5
    before = page.locator(".rule").inner_html()
    page.wait_for_timeout(900)
    assert page.locator(".rule").inner_html() == before
