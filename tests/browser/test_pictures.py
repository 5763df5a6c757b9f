"""Pictures that the page takes away: of long runs too, in its theme, and with what they show."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, ImageSequence
from playwright.sync_api import expect

from tests.browser.conftest import close_sharing, download, generate
from tests.browser.test_speed import recording

pytestmark = pytest.mark.browser


def test_a_gif_of_250_tokens_in_250_steps_is_drawn_and_says_what_is_left_out(
    served, watch, tmp_path
):
    page = watch(served).open()
    (tmp_path / "run.json").write_text(json.dumps(recording(250, 250)))
    page.locator("#file").set_input_files(tmp_path / "run.json")
    expect(page.locator(".tok")).to_have_count(250)
    picture = Image.open(io.BytesIO(download(page, "GIF")))
    frames = list(ImageSequence.Iterator(picture))
    assert 48 <= len(frames) <= 160
    assert frames[-1].info["duration"] >= 3000
    expect(page.locator("#sharing .said")).to_contain_text(f"{len(frames)} of 251 states")


def test_a_picture_has_the_theme_of_the_page(served, watch):
    page = watch(served, color_scheme="dark").open()
    generate(page, max_tokens=16, steps=4, seed=3)
    for dark in (True, False):
        picture = Image.open(io.BytesIO(download(page, "PNG")))
        close_sharing(page)
        corner = picture.convert("L").getpixel((1, 1))
        assert isinstance(corner, int) and (corner < 64) == dark
        page.get_by_role("button", name="Light or dark").click()
