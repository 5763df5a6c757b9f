"""The dialog of exports: a preview, videos, an embedded page, code of exactly this run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import call_json, canvas_text, download, generate

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 16, "steps": 8, "seed": 7}


def test_a_video_of_the_run_is_recorded_in_the_browser(served, watch, tmp_path):
    page = watch(served).open()
    generate(page, **SMALL)
    video = download(page, "Square")
    assert len(video) > 10_000 and (video[:4] == b"\x1aE\xdf\xa3" or video[4:8] == b"ftyp")
    expect(page.locator("#sharing .said")).to_contain_text("1080 x 1080")


def test_the_preview_shows_the_run(served, watch):
    page = watch(served).open()
    generate(page, **SMALL)
    page.get_by_role("button", name="Share", exact=True).click()
    colours = page.locator(".preview").evaluate(
        """canvas => {
            const {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert colours > 20
    expect(page.get_by_role("button", name="Square")).to_be_enabled()


def test_code_repeats_exactly_this_run(served, watch):
    page = watch(served).open()
    page.locator("[name=prompt]").fill("It's \"Tom's\" dog")
    generate(page, **SMALL, mixing_ratio=0.3)
    page.locator("body").press("End")
    page.get_by_role("button", name="Share", exact=True).click()
    page.locator("#sharing summary").click()
    code = page.locator("#sharing .code")
    words = shlex.split(code.inner_text().replace("\\\n", " "))
    assert words[:2] == ["curl", f"{served.url}/v1/completions"]
    body = json.loads(words[words.index("-d") + 1])
    text = call_json(served, "/v1/completions", body)["choices"][0]["text"]
    assert text.strip() and text.strip() in canvas_text(page)
    page.get_by_role("button", name="Python").click()
    python = code.inner_text()
    compile(python, "example.py", "exec")
    assert 'base_url="' + served.url in python and "seed=7" in python
    page.get_by_role("button", name="JavaScript").click()
    assert "await fetch(" in code.inner_text()


def test_an_embedded_page_shows_the_canvas_alone(served, watch, tmp_path: Path):
    page = watch(served).open()
    generate(page, **SMALL)
    (tmp_path / "run.html").write_bytes(download(page, "HTML"))
    snippet = page.locator(".snippet").input_value()
    assert snippet.startswith("<iframe") and "#embed" in snippet
    alone = watch(served, offline=True).page
    alone.goto((tmp_path / "run.html").as_uri() + "#embed")
    expect(alone.locator(".canvas")).to_be_visible()
    expect(alone.locator(".top")).to_be_hidden()
    assert "og:title" in (tmp_path / "run.html").read_text()
