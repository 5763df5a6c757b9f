"""The page for everybody: keyboard, small screens, dark rooms, no motion, screen readers."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import HERE, generate, place, settled

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 16, "steps": 8, "seed": 7, "sampler": "ancestral"}
PHONE = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True}


def serious(page: Page) -> list[str]:
    """Serious and critical findings of axe-core."""
    page.evaluate((HERE / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(served, watch, scheme):
    page = watch(served, color_scheme=scheme, reduced_motion="reduce").open()
    assert serious(page) == []
    page.locator("[name=sampler]").select_option("topk")
    page.locator("[name=mixing_ratio]").fill("0.4")
    page.locator("[name=steps]").fill("8")
    page.get_by_role("button", name="Compare with another setting").click()
    generate(page, 2, max_tokens=16, seed=7)
    page.locator("body").press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert serious(page) == []
    page.get_by_role("radio", name="Confidence").check()
    page.get_by_role("radio", name="Tiles").check()
    assert serious(page) == []
    page.get_by_role("button", name="Remove setting B").click()
    generate(page, model="digits", seed=4, n=2, steps=4)
    assert serious(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_inspector_and_the_dialogs(served, watch, scheme):
    page = watch(served, color_scheme=scheme, reduced_motion="reduce").open(settings=False)
    generate(page, **SMALL)
    page.locator("body").press("End")
    page.locator(".tok[data-at='7']").click()
    page.get_by_role("button", name="What else was likely").click()
    expect(page.locator(".likeliest li")).to_have_count(5)
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Share", exact=True).click()
    page.locator("#sharing summary").click()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.locator("body").press("?")
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="Chat").check()
    page.locator("[name=prompt]").fill("Tom had a dog.")
    generate(page, **SMALL)
    assert serious(page) == []


def test_the_keyboard_is_enough(served, watch):
    page = watch(served).open()

    def focused() -> str:
        return page.evaluate("document.activeElement.name || document.activeElement.ariaLabel")

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if focused() == name:
                return
        raise AssertionError(f"no way to {name}")

    tab_to("prompt")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Control+a")
    page.keyboard.type("Tom had a red ball")
    tab_to("max_tokens")
    page.keyboard.press("Control+a")
    page.keyboard.type("16")
    tab_to("steps")
    page.keyboard.type("8")
    page.keyboard.press("Enter")
    settled(page)
    tab_to("Step")
    page.keyboard.press("Home")
    assert place(page) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert place(page) == 2
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.keyboard.press("End")
    assert place(page) == 8
    page.locator(".tok").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".history")).to_contain_text("position 1")
    assert place(page) == 8  # cells have the arrows while one has the focus


def test_dark_follows_the_system_and_the_button(served, watch):
    watched = watch(served, color_scheme="dark")
    page = watched.open()

    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")) // 3

    assert brightness() < 40
    page.get_by_role("button", name="Light or dark").click()
    assert brightness() > 200
    page.reload()
    expect(page.locator("html[data-ready]")).to_be_attached()
    assert brightness() > 200


def test_page_fits_a_screen_of_375_pixels(served, watch):
    page = watch(served, **PHONE).open()
    generate(page, **SMALL)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 375
    expect(page.locator(".canvas")).to_be_in_viewport()
    page.get_by_role("button", name="First step").tap()
    assert place(page) == 0
    page.get_by_role("button", name="Last step").tap()
    page.locator(".tok.set").first.tap()
    expect(page.locator(".history")).to_be_visible()
    page.get_by_role("radio", name="Tiles").check()
    assert page.evaluate(width) == 375
    for button in page.locator(".transport button").all():
        box = button.bounding_box()
        assert box is not None and box["width"] >= 32 and box["height"] >= 32
        assert box["x"] >= 0 and box["x"] + box["width"] <= 375


def test_without_motion_nothing_plays_by_itself(served, watch):
    page = watch(served, reduced_motion="reduce").open()
    generate(page, **SMALL)
    expect(page.locator(".place")).to_have_text("9 / 9")
    moving = "document.getAnimations().length"
    assert page.evaluate(moving) == 0
