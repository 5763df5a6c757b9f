"""A token of a finished run: what else was likely; kept, replaced or masked again."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import call_json, canvas_text, generate, settled

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 24, "steps": 8, "seed": 7}


def opened(page: Page, at: int) -> None:
    page.locator(f".tok[data-at='{at}']").click()
    expect(page.locator(".inspect")).to_be_visible()


def ids(page: Page) -> list[str]:
    return page.locator(".canvas .tok").all_text_contents()


def test_the_likeliest_tokens_are_those_of_the_api(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("End")
    opened(page, 9)
    page.get_by_role("button", name="What else was likely").click()
    expect(page.locator(".likeliest li")).to_have_count(5)
    body = {"prompt": "Once upon a time", **SMALL, "logprobs": 5}
    found = call_json(served, "/v1/completions", body)["choices"][0]["logprobs"]
    first = page.locator(".canvas .tok.given").count()
    top = found["top_logprobs"][9 - first]
    best = max(top, key=lambda text: top[text])
    expect(page.locator(".likeliest .word").first).to_have_text(best, use_inner_text=False)
    entropy = found["entropies"][9 - first]
    expect(page.locator(".entropy")).to_have_text(f"entropy {entropy:.2f} nats")


def test_a_kept_token_stays_while_the_rest_is_written_again(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("End")
    before = ids(page)
    opened(page, 9)
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator(".pane h2")).to_contain_text("a token kept")
    settled(page)
    expect(page.locator(".tok[data-at='9']")).to_have_class(re.compile(r"\bgiven\b"))
    page.locator("body").press("End")
    assert ids(page)[9] == before[9] and page.locator(".tok.mask").count() == 0
    page.keyboard.press("Home")
    assert page.locator(".tok.mask").count() > 15


def test_a_token_is_replaced_by_a_word_of_one_token(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("End")
    opened(page, 9)
    word = page.get_by_label("Another word")
    word.fill("antidisestablishment")
    page.get_by_role("button", name="Replace").click()
    expect(page.locator(".inspect-said")).to_contain_text("tokens; a position holds one")
    word.fill("dog")
    page.get_by_role("button", name="Replace").click()
    expect(page.locator(".pane h2")).to_contain_text("a token replaced")
    settled(page)
    page.locator("body").press("End")
    assert ids(page)[9] == "dog" and " dog" in canvas_text(page)


def test_a_token_masked_again_is_written_from_the_shown_step_on(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("End")
    before = ids(page)
    opened(page, 9)
    page.get_by_role("button", name="Mask again").click()
    expect(page.locator(".pane h2")).to_contain_text("masked again")
    settled(page)
    page.locator("body").press("End")
    after = ids(page)
    assert len(after) == len(before)
    assert [a for i, a in enumerate(after) if i != 9] == [b for i, b in enumerate(before) if i != 9]


def test_curves_follow_the_shown_step(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("Home")
    charts = page.locator(".chart")
    expect(charts).to_have_count(4)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        masked = page.locator("[data-name=masked] dd").inner_text()
        expect(charts.first.locator(".curve-value")).to_have_text(masked)
    names = charts.locator("figcaption span:first-child").all_inner_texts()
    assert names == ["masks left", "changes a step", "mean confidence", "time of a step"]
