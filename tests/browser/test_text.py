"""The text of a canvas: it stays in its place, in any script, and is copied as it is."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import call_json, canvas_text, generate

pytestmark = pytest.mark.browser

PLACES = """() => [...document.querySelectorAll(".tok")].map((node) => {
    const {left, top, width, height} = node.getBoundingClientRect();
    return width > 0.5 ? [left, top + height / 2] : null;
})"""

STILL = """() => [...document.querySelectorAll(".cell")].every((cell) =>
    cell.getAnimations({subtree: true}).every((each) => each instanceof CSSTransition))"""


def moves(page: Page, steps: int) -> tuple[list[int], int]:
    """How many cells each step of a replay moves, and how many changes of a line there are."""
    page.locator("body").press("Home")
    page.wait_for_function(STILL)  # at the end of a run cells glide to their final places
    before: list[Any] = page.evaluate(PLACES)
    moved, turned = [], 0
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
        after = page.evaluate(PLACES)
        both = [(a, b) for a, b in zip(before, after, strict=True) if a and b]
        moved.append(sum(abs(a[0] - b[0]) > 1 for a, b in both))
        turned += sum(abs(a[1] - b[1]) > 12 for a, b in both)
        before = after
    return moved, turned


@pytest.mark.parametrize("width", [1300, 390])
def test_tokens_of_a_replay_stay_in_their_lines_and_places(served, watch, width):
    page = watch(served, viewport={"width": width, "height": 900}).open()
    generate(page, max_tokens=120, steps=32, seed=21, mixing_ratio=0.3)
    moved, turned = moves(page, 33)
    print(f"{sum(moved) / len(moved):.1f} of 125 cells move at a step, at most {max(moved)}")
    assert page.locator(".tok").count() >= 120
    assert max(moved) <= 8 and turned == 0


def test_masks_take_the_width_of_their_slots(served, watch):
    page = watch(served).open()
    generate(page, max_tokens=60, steps=16, seed=21)
    widths = (
        "() => [...document.querySelectorAll('.tok')].map((n) => n.getBoundingClientRect().width)"
    )
    page.locator("body").press("End")
    final = page.evaluate(widths)
    page.keyboard.press("Home")
    first = page.evaluate(widths)
    assert page.locator(".tok.mask").count() > 40
    assert all(abs(a - b) < 1.5 for a, b in zip(first, final, strict=True))


def test_without_motion_no_cell_glides(served, watch):
    page = watch(served, reduced_motion="reduce").open()
    generate(page, max_tokens=40, steps=8, seed=3)
    assert page.evaluate("document.getAnimations().length") == 0


WORDS = "你好世界 naïve 🙂 end"


def test_characters_of_several_tokens_are_one_cell(served, watch):
    page = watch(served).open()
    page.locator("[name=prompt]").fill(WORDS)
    generate(page, max_tokens=16, steps=8, seed=7)
    page.locator("body").press("End")
    for sign in ("你", "好", "界", "ï", "🙂"):
        expect(page.locator(".tok.given", has_text=sign)).to_have_count(1)
    given = "".join(page.locator(".tok.given").all_text_contents())
    assert "\N{REPLACEMENT CHARACTER}" not in given and "你好世界" in given
    assert page.locator(".tok.given.joined").count() == 2 * 4 + 1 + 3
    hidden = page.locator(".tok.given.joined").first
    assert hidden.evaluate("node => node.getBoundingClientRect().width") < 0.5
    page.get_by_role("radio", name="Tiles").check()
    assert "你" in canvas_text(page)


def test_text_of_a_script_from_right_to_left_begins_on_the_right(served, watch):
    page = watch(served).open()
    page.locator("[name=prompt]").fill("مرحبا بالعالم")
    generate(page, max_tokens=16, steps=8, seed=7)
    canvas = page.locator(".canvas")
    expect(canvas).to_have_css("direction", "rtl")
    page.locator("body").press("End")
    assert "مرحبا بالعالم" in canvas_text(page)
    box = canvas.bounding_box()
    first = page.locator(".tok.given", has_text="م").first.bounding_box()
    assert box is not None and first is not None
    assert first["x"] > box["x"] + box["width"] / 2
    page.locator("[name=prompt]").fill("Once upon a time")
    generate(page, max_tokens=16, steps=8, seed=7)
    expect(page.locator(".canvas")).to_have_css("direction", "ltr")


def test_copied_text_is_the_text_without_signs(served, watch):
    watched = watch(served, permissions=["clipboard-read", "clipboard-write"])
    page = watched.open()
    body = {"prompt": "Once upon a time", "max_tokens": 100, "steps": 16, "seed": 5}
    generate(page, **{k: v for k, v in body.items() if k != "prompt"})
    page.locator("body").press("End")
    answer = call_json(served, "/v1/completions", body)["choices"][0]["text"]
    read = "navigator.clipboard.readText()"
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate(read).strip() == f"Once upon a time{answer}".strip()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.canvas'))")
    page.keyboard.press("Control+c")
    assert page.evaluate(read).strip() == f"Once upon a time{answer}".strip()
    page.keyboard.press("Home")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.canvas'))")
    page.keyboard.press("Control+c")
    assert "░" in page.evaluate(read)
