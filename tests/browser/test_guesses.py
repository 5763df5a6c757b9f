"""Guesses: what a mask would become now stands faintly in it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import canvas_text, generate

pytestmark = pytest.mark.browser

SHOWN = """
    () => [...document.querySelectorAll(".tok.mask[data-guess]")].map((node) => {
        const { content, opacity } = getComputedStyle(node, "::after");
        return [content, Number(opacity), Number(node.style.getPropertyValue("--sure"))];
    })
"""


def test_masks_show_their_guesses_fainter_where_they_are_less_sure(served, watch):
    page = watch(served, reduced_motion="reduce").open()
    generate(page, max_tokens=24, steps=12, seed=7, sampler="topk")
    page.locator("body").press("Home")
    assert page.evaluate(SHOWN) == []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    shown = page.evaluate(SHOWN)
    masks = page.locator(".tok.mask")
    assert 3 < len(shown) <= masks.count()
    assert all(re.fullmatch(r'"\S.*"', content) for content, _, _ in shown)
    opacities = [opacity for _, opacity, sure in sorted(shown, key=lambda one: one[2])]
    assert opacities == sorted(opacities) and opacities[-1] > opacities[0] + 0.1
    expect(page.locator(".legend .guess")).to_be_visible()
    words = {content.strip('"') for content, _, _ in shown}
    assert not any(f"░{word}" in canvas_text(page) for word in words)  # no text of the page
    page.get_by_role("radio", name="Plain").check()
    assert page.evaluate(SHOWN) == []
    page.get_by_role("radio", name="Changes").check()
    masks.first.hover()
    expect(page.locator(".history")).to_contain_text("now?")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("End")
    assert page.evaluate(SHOWN) == [] and masks.count() == 0


def test_samplers_without_guesses_show_plain_masks(served, watch):
    page = watch(served, reduced_motion="reduce").open()
    generate(page, max_tokens=16, steps=8, seed=7, sampler="ancestral")
    page.locator("body").press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        assert page.evaluate(SHOWN) == []
    expect(page.locator(".legend .guess")).to_be_hidden()
