"""Chat with a checkpoint that has a template: turns, and the answer in its bubble."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import call_json, canvas_text, generate

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 16, "steps": 8, "seed": 7}


def test_a_conversation_keeps_its_turns(served, watch):
    page = watch(served).open()
    page.get_by_role("radio", name="Chat").check()
    expect(page.locator("[name=suffix]")).to_be_hidden()
    page.locator("[name=prompt]").fill("Tom had a dog.")
    generate(page, **SMALL)
    body = {"messages": [{"role": "user", "content": "Tom had a dog."}], **SMALL}
    answer = call_json(served, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    page.locator("body").press("End")
    assert answer.strip() in canvas_text(page)
    expect(page.locator(".turn.user")).to_have_text("You: Tom had a dog.")
    expect(page.locator("[name=prompt]")).to_have_value("")
    assert page.locator(".canvas .tok.given:visible").count() == 0  # the bubble is the answer
    page.locator("[name=prompt]").fill("The **dog** ran.")
    generate(page, **SMALL)
    turns = page.locator(".turn")
    expect(turns).to_have_count(3)
    expect(turns.nth(1)).to_contain_text(answer.split()[0])
    expect(turns.nth(2).locator("strong")).to_have_text("dog")
    page.get_by_role("button", name="New conversation").click()
    expect(turns).to_have_count(0)


def test_markup_in_a_turn_is_text(served, watch):
    page = watch(served).open()
    page.get_by_role("radio", name="Chat").check()
    page.locator("[name=prompt]").fill("<img src=x onerror=\"document.title='x'\"> `<b>` \n\n- one")
    generate(page, **SMALL)
    turn = page.locator(".turn.user")
    expect(turn.locator("code")).to_have_text("<b>")
    expect(turn.locator("li")).to_have_text("one")
    assert turn.locator("img, b").count() == 0
