"""Links and recordings that the page's first version wrote open in this one."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import canvas_text, place, settled
from tests.support.paths import ROOT

pytestmark = pytest.mark.browser

RECORDED = ROOT / "tests" / "web" / "recorded"
"""Recordings that the first version of the server wrote."""
TWO_TEXTS = (
    "eyJtb2RlbCI6InN0b3JpZXMiLCJzZWVkIjoiNyIsInZhcmlhbnRzIjpbeyJzdGVwcyI6OH0seyJzdGVw"
    "cyI6NCwic2FtcGxlciI6InRvcGsiLCJtaXhpbmdfcmF0aW8iOjB9XSwicHJvbXB0IjoiT25jZSB1cG9u"
    "IGEgdGltZSIsInN1ZmZpeCI6IiIsIm1heF90b2tlbnMiOiIxNiJ9"
)
"""Stories: seed 7, 16 tokens, in 8 steps and in 4 of topk at k = 0."""
IMAGES = (
    "eyJtb2RlbCI6ImRpZ2l0cyIsInNlZWQiOiI0IiwidmFyaWFudHMiOlt7InN0ZXBzIjo2fV0sImNsYXNz"
    "X2xhYmVsIjoiMyIsIm4iOiIyIn0"
)
"""Two threes in 6 steps, seed 4."""


def test_a_link_to_two_texts_repeats_them_at_its_step(served, watch):
    page = watch(served).open(f"#run={TWO_TEXTS}&step=3", settings=False)
    settled(page, 2)
    assert place(page) == 3
    heads = page.locator(".pane h2").all_inner_texts()
    assert heads[0].startswith("A: 8 steps · ancestral") and heads[1].startswith(
        "B: 4 steps · topk"
    )
    expect(page.locator("[name=seed]")).to_have_value("7")
    expect(page.locator("[name=max_tokens]")).to_have_value("16")


def test_a_link_to_images_repeats_them(served, watch):
    page = watch(served).open(f"#run={IMAGES}&step=2", settings=False)
    settled(page)
    expect(page.locator("canvas.image")).to_have_count(2)
    expect(page.locator("[name=class_label]")).to_have_value("3")
    assert place(page) == 2


@pytest.mark.parametrize("names", [["story"], ["digits"], ["blocks"], ["story", "blocks"]])
def test_a_recording_opens_and_ends_as_it_did(served, watch, tmp_path, names):
    kept = [json.loads((RECORDED / f"{name}.json").read_text()) for name in names]
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(kept if len(kept) > 1 else kept[0]))
    page = watch(served, reduced_motion="reduce").open(settings=False)
    page.locator("#file").set_input_files(file)
    expect(page.locator("#said")).to_have_text("Loaded kept.json.")
    expect(page.locator(".pane")).to_have_count(len(names))
    page.locator("body").press("End")
    for pane, recorded in enumerate(kept):
        completed = recorded["events"][-1]["data"]
        if names[pane] == "digits":
            expect(page.locator("canvas.image")).to_have_count(len(completed["choices"]))
            continue
        shown = " ".join(canvas_text(page, pane).split())
        assert " ".join(completed["choices"][0]["text"].split()) in shown
