"""The page in use: it generates, scrubs, compares, infills, draws, and gives away what it made."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image, ImageSequence
from playwright.sync_api import expect

from tests.browser.conftest import (
    call_json,
    canvas_text,
    download,
    generate,
    place,
    settled,
    slider,
)

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 16, "steps": 8, "seed": 7, "sampler": "ancestral"}


def test_it_generates_what_the_api_generates(served, watch):
    page = watch(served).open()
    generate(page, **SMALL, mixing_ratio=0.3)
    body = {"prompt": "Once upon a time", **SMALL, "mixing_ratio": 0.3}
    text = call_json(served, "/v1/completions", body)["choices"][0]["text"]
    page.keyboard.press("End")
    shown = canvas_text(page).replace("▸", "").replace("↵", "")
    assert shown.strip() == f"Once upon a time{text}"
    facts = page.locator(".facts").inner_text()
    assert re.search(r"forwards \(NFE\)\s+[6-9]\b", facts) and "latency" in facts
    assert page.locator(".tok.mask").count() == 0


def test_scrubbing_shows_every_step_forth_and_back(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.locator("body").press("Home")
    assert place(page) == 0 and page.locator(".tok.mask").count() > 10
    forth = []
    for step in range(1, 10):
        page.keyboard.press("ArrowRight")
        assert place(page) == step
        forth.append(canvas_text(page))
        masked = page.locator("[data-name=masked] dd").inner_text()
        assert page.locator(".tok.mask").count() == int(masked)
    back = []
    for _ in forth[1:]:
        page.keyboard.press("ArrowLeft")
        back.append(canvas_text(page))
    assert back == forth[-2::-1]
    slider(page).fill("5")
    assert place(page) == 5 and canvas_text(page) == forth[4]
    axes = page.locator(".strip-figure .axis").all_inner_texts()
    assert [re.findall(r"\w+", axis) for axis in axes] == [
        ["0", "position", "20"],
        ["0", "step", "8"],
    ]
    page.locator(".strip").click(position={"x": 3, "y": 20})
    assert place(page) == 0
    expect(page).to_have_url(re.compile(r"[#&]step=0$"))


def test_changes_have_a_second_sign_and_a_history(served, watch):
    page = watch(served).open()
    generate(page, max_tokens=24, steps=12, seed=7, mixing_ratio=0.5, sampler="ancestral")
    page.locator("body").press("Home")
    seen = set()
    for _ in range(13):
        page.keyboard.press("ArrowRight")
        for op in ("unmask", "refine", "remask"):
            found = page.locator(f".tok.{op}")
            if found.count() and op not in seen:
                seen.add(op)
                style = found.first.evaluate(
                    "node => [getComputedStyle(node).textDecorationLine + ' ' +"
                    " getComputedStyle(node).textDecorationStyle,"
                    " getComputedStyle(node).borderStyle]"
                )
                expected = {"unmask": "underline solid", "refine": "underline double"}
                assert style[0] == expected[op] if op in expected else style[1] == "dashed"
    assert seen == {"unmask", "refine", "remask"}
    changed = page.locator(".tok.set").first
    changed.hover()
    card = page.locator(".history")
    expect(card).to_be_visible()
    at = changed.get_attribute("data-at")
    expect(card).to_contain_text(f"position {at}")
    assert card.locator("li").count() >= 2
    page.get_by_role("radio", name="Confidence").check()
    assert page.locator("[class*=' h9']").count() > 0
    colour = "node => getComputedStyle(node).backgroundColor"
    ramp = [page.locator(f".ramp .h{i}").evaluate(colour) for i in range(10)]
    assert len(set(ramp)) == 10
    sure = page.locator(".tok.h9").first
    expect(sure).to_have_css("background-color", ramp[9])
    page.get_by_role("radio", name="Tiles").check()
    box = page.locator(".tok").nth(3).bounding_box()
    assert box is not None and box["width"] > 50
    expect(sure).to_have_css("background-color", ramp[9])
    expect(page.locator(".legend .ramp")).to_be_visible()
    expect(page.locator(".legend")).not_to_contain_text("refined", use_inner_text=True)


def test_history_closes_in_every_way(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    card, cell = page.locator(".history"), page.locator(".tok.set").nth(2)
    for close in (
        lambda: page.keyboard.press("Escape"),
        lambda: page.locator(".pane h2").click(),
        lambda: cell.click(),
        lambda: card.get_by_role("button", name="Close").click(),
    ):
        cell.click()
        expect(card).to_be_visible()
        page.mouse.move(5, 5)
        expect(card).to_be_visible()  # a click pins it
        close()
        expect(card).to_be_hidden()
    cell.hover()
    expect(card).to_be_visible()
    page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_history_on_a_phone_is_a_sheet_with_a_button(served, watch):
    page = watch(served, viewport={"width": 390, "height": 800}).open()
    generate(page, **SMALL)
    page.locator(".tok.set").nth(2).click()
    card = page.locator(".history")
    box = card.bounding_box()
    assert box is not None and box["x"] == 0 and box["width"] == 390
    assert abs(box["y"] + box["height"] - 800) < 1
    card.get_by_role("button", name="Close").click()
    expect(card).to_be_hidden()


def test_text_under_a_resting_mouse_opens_no_history(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    box = page.locator(".tok.set").nth(2).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    expect(page.locator(".history")).to_be_visible()
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#ask').requestSubmit()")  # the mouse stays where it is
    expect(page.locator(".pane")).to_have_count(1)
    settled(page)
    page.wait_for_timeout(500)  # a browser tells what lies under the mouse after a layout
    expect(page.locator(".history")).to_be_hidden()


def test_two_step_counts_are_compared(served, watch):
    page = watch(served).open()
    page.locator("[name=steps]").fill("12")
    page.locator("[name=sampler]").select_option("ancestral")
    page.get_by_role("button", name="Compare with another setting").click()
    page.locator("[name=steps]").fill("3")
    generate(page, 2, max_tokens=16, seed=7)
    nelbo = page.locator(".facts [data-name=likelihood] dd")
    expect(nelbo).to_have_count(2)
    for i in (0, 1):
        expect(nelbo.nth(i)).to_have_text(re.compile(r"^\d+\.\d\d ± \d+\.\d\d nats/token$"))
    titles = page.locator(".pane h2").all_inner_texts()
    assert titles[0].startswith("A: 12 steps") and titles[1].startswith("B: 3 steps")
    page.locator("body").press("Home")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    steps = page.locator("[data-name=step] dd").all_inner_texts()
    assert steps == ["6 / 12", "2 / 3"]  # the same share, with the last call of each
    page.get_by_role("radio", name="By time").check()
    page.locator("body").press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert page.locator("[data-name=step] dd").all_inner_texts() == ["final", "final"]


def test_it_fills_in_the_middle(served, watch):
    page = watch(served).open()
    page.locator("[name=prompt]").fill("Lily went to the park.")
    generate(page, **SMALL, suffix=" They went home.")
    page.keyboard.press("End")
    text = canvas_text(page)
    assert "Lily went to the park." in text and text.endswith(" They went home.")
    given = "".join(page.locator(".tok.given").all_inner_texts())
    assert given.endswith("Theywenthome.")


def test_schedules_are_drawn_with_the_keyboard_and_are_sent(served, watch):
    watched = watch(served)
    page = watched.open()
    sent = []
    page.on("request", lambda r: r.method == "POST" and sent.append(json.loads(r.post_data or "")))
    page.locator("[name=sampler]").select_option("topk")
    page.locator("[name=max_tokens]").fill("16")
    page.locator("[name=steps]").fill("4")
    page.locator("[name=steps]").press("Tab")
    bars = page.get_by_role("slider", name="Masks filled")
    expect(bars).to_have_count(4)
    bars.first.press("ArrowUp")
    bars.first.press("ArrowUp")
    values = [int(bar.get_attribute("aria-valuenow") or "") for bar in bars.all()]
    assert values[0] == 6 and sum(values) == 16
    refined = page.get_by_role("slider", name="Tokens refined")
    refined.first.press("ArrowRight")
    refined.nth(1).press("ArrowUp")
    generate(page, seed=1)
    assert sent[0]["topk_absorb"] == values and sent[0]["topk_uniform"] == [0, 1, 0, 0]
    page.locator("body").press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".tok.unmask").count() == 6


def test_only_what_the_sampler_reads_is_offered(served, watch):
    page = watch(served).open()
    page.locator("[name=sampler]").select_option("ancestral")
    for sampler, field in (("topk", "block_length"), ("gidd", "p_uniform"), ("remdm", "remdm_eta")):
        expect(page.locator(f"[name={field}]")).to_have_count(0)
        page.locator("[name=sampler]").select_option(sampler)
        expect(page.locator(f"[name={field}]")).to_be_visible()
    expect(page.locator("[name=mixing_ratio]")).to_have_count(0)
    page.locator("[name=model]").select_option("digits")
    expect(page.locator("[name=class_label] option")).to_have_count(10)
    expect(page.locator("[name=prompt]")).to_be_hidden()


def test_page_offers_chat_where_the_checkpoint_has_a_template(served, watch):
    page = watch(served).open()
    page.get_by_role("radio", name="Chat").check()
    page.locator("[name=prompt]").fill("Tom had a dog.")
    generate(page, **SMALL)
    page.keyboard.press("End")
    assert "Tom had a dog." in canvas_text(page)


def test_page_draws_images(served, watch):
    page = watch(served).open()
    generate(page, model="digits", class_label="3", n=3, seed=4, steps=6)
    expect(page.locator("canvas.image")).to_have_count(3)
    page.keyboard.press("End")
    answer = call_json(
        served,
        "/v1/diffusion/trajectories",
        {"model": "digits", "class_label": 3, "n": 3, "seed": 4, "steps": 6},
    )
    ids = answer["events"][-1]["data"]["choices"][0]["ids"]
    shown = page.locator("canvas.image").first.evaluate(
        """canvas => {
            const {width, height} = canvas, size = width / 12;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return Array.from({length: 144}, (_, at) => {
                const x = Math.floor((at % 12 + 0.5) * size);
                const y = Math.floor((Math.floor(at / 12) + 0.5) * size);
                return data[4 * (y * width + x)];
            });
        }"""
    )
    assert shown == [round(id_ * 255 / 7) for id_ in ids]
    film = page.locator(".film button")
    assert film.count() == 8
    film.first.click()
    assert place(page) == 0
    page.locator("canvas.image").first.hover(position={"x": 30, "y": 30})
    expect(page.locator(".history").first).to_contain_text("position")


def test_what_it_exports_it_loads_again(served, watch, tmp_path):
    page = watch(served).open()
    generate(page, **SMALL)
    page.keyboard.press("End")
    text = canvas_text(page)
    saved = download(page, "JSON")
    record = json.loads(saved)
    names = [event["event"] for event in record["events"]]
    assert names[0] == "diffusion.created" and names[-1] == "diffusion.completed"
    request = record["events"][0]["data"]["request"]
    again = call_json(served, "/v1/diffusion/trajectories", request)
    strip = ("elapsed_ms",)
    changes = [
        [
            {k: v for k, v in event["data"].items() if k not in strip}
            for event in one["events"]
            if event["event"] == "diffusion.step"
        ]
        for one in (record, again)
    ]
    assert changes[0] == changes[1]
    (tmp_path / "run.json").write_bytes(saved)
    other = watch(served).open()
    other.locator("#file").set_input_files(tmp_path / "run.json")
    expect(other.locator(".facts [data-name=latency]")).to_have_count(1)
    other.locator("body").press("End")
    assert canvas_text(other) == text
    (tmp_path / "bad.json").write_text('{"events": [{"event": "diffusion.step", "data": {}}]}')
    other.locator("#file").set_input_files(tmp_path / "bad.json")
    expect(other.locator("#said")).to_contain_text("record 0")


def test_pictures(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    gif, png = download(page, "GIF"), download(page, "PNG")
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(gif))))) == 10
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_a_page_that_plays_offline(served, watch, tmp_path):
    page = watch(served).open()
    page.locator("[name=steps]").fill("8")
    page.get_by_role("button", name="Compare with another setting").click()
    generate(page, 2, max_tokens=16, seed=7)
    page.keyboard.press("End")
    texts = [canvas_text(page, i) for i in (0, 1)]
    expect(page.locator(".facts [data-name=likelihood]")).to_have_count(2)
    (tmp_path / "run.html").write_bytes(download(page, "HTML"))
    watched = watch(served, offline=True)
    alone = watched.page
    alone.goto((tmp_path / "run.html").as_uri())
    expect(alone.locator(".pane")).to_have_count(2)
    expect(alone.get_by_role("button", name="Play", exact=True)).to_be_visible()  # it has played
    alone.locator("body").press("End")
    assert [canvas_text(alone, i) for i in (0, 1)] == texts
    alone.keyboard.press("Home")
    assert place(alone) == 0 and alone.locator(".tok.mask").count() > 15
    expect(alone.locator(".facts [data-name=likelihood]")).to_have_count(2)


def test_a_link_makes_the_same_run(served, watch):
    watched = watch(served)
    page = watched.open()
    generate(page, max_tokens=16, steps=8, sampler="ancestral", mixing_ratio=0.4)  # a seed is drawn
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    text = canvas_text(page)
    expect(page).to_have_url(re.compile(r"step=5$"))
    page.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name="Link").click()
    expect(page.locator("#sharing .said")).to_contain_text("link")
    other = watch(served)
    copy = other.open("#" + page.url.split("#")[1])
    settled(copy)
    expect(copy.locator(".place")).to_have_text("5 / 9")
    assert canvas_text(copy) == text
    assert copy.locator("[name=mixing_ratio]").input_value() == "0.4"
