"""Trajectories as GIF and PNG."""

from __future__ import annotations

import copy
import io
import json

import pytest
from PIL import Image, ImageSequence

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from tests.support.effort import some
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of

PATH = "/v1/diffusion/pictures"
TEXT = {"prompt": "Once <b>", "max_tokens": 20, "steps": 9, "seed": 3, "mixing_ratio": 0.4}
IMAGE = {"model": "digits", "class_label": 3, "n": 2, "steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def both(tiny):
    digits = load_checkpoint(BUNDLED / "digits")
    yield from run_server(make_engine(tiny), settings_of(), make_engine(digits))


def recorded(served, body) -> dict:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    response, text = call(served, "POST", "/v1/diffusion/trajectories", body, headers)
    assert response.status == 200, text
    return json.loads(text)


@pytest.fixture(scope="module")
def story(both):
    return recorded(both, TEXT)


@pytest.fixture(scope="module")
def digits(both):
    return recorded(both, IMAGE)


def drawn(served, runs, form) -> Image.Image:
    response, text = call(served, "POST", PATH, {"format": form, "runs": runs})
    assert response.status == 200, text
    assert response.headers["content-type"] == f"image/{form}"
    return Image.open(io.BytesIO(text))


def frames_of(picture) -> list[bytes]:
    return [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(picture)]


def test_a_gif_has_every_step_and_rests_at_the_end(both, story, digits):
    for run, steps in ((story, 9), (digits, 4)):
        gif = drawn(both, [run], "gif")
        frames = frames_of(gif)
        assert len(frames) == steps + 2  # the prior, the steps, the last call
        assert len(set(frames)) > steps // 2
        assert gif.info["duration"] >= 2000 and gif.info["loop"] == 0


def test_an_image_is_drawn_in_its_own_pixels(both, digits):
    *_, last = [p.convert("L") for p in ImageSequence.Iterator(drawn(both, [digits], "gif"))]
    ids = digits["events"][-1]["data"]["choices"][0]["ids"]
    scale = 200 // 12
    top = 30 + 14 + scale
    for row in range(12):
        for column in range(12):
            at = scale + column * scale + scale // 2, top + row * scale + scale // 2
            expected = round(ids[row * 12 + column] * 255 / 7)
            assert abs(last.getpixel(at) - expected) <= 8, (row, column)


def test_png_has_a_row_for_each_step_and_a_column_for_each_recording(both, story, digits):
    page, strip = drawn(both, [story], "png"), drawn(both, [digits], "png")
    assert page.width == 760 and page.height > 300
    assert strip.height > 6 * 200  # prior, four steps, last call
    beside = drawn(both, [story, story], "png")
    assert beside.width == 2 * 560


def test_long_runs_are_thinned_out(tiny, story):
    for served in run_server(make_engine(tiny), settings_of(max_picture_frames=5)):
        assert len(frames_of(drawn(served, [story], "gif"))) == 5


def test_too_large_a_picture_is_refused(tiny, story):
    for served in run_server(make_engine(tiny), settings_of(max_picture_pixels=100_000)):
        response, text = call(served, "POST", PATH, {"runs": [story]})
        error = json.loads(text)["error"]
        assert response.status == 400 and error["code"] == "limit_exceeded"
        assert error["param"] == "runs" and "100000" in error["message"]


def edited(run, n, **change) -> dict:
    run = copy.deepcopy(run)
    run["events"][n]["data"] |= change
    return run


def test_what_is_no_recording_is_refused(both, story, digits):
    beyond = {"pos": 999, "op": "unmask", "id": 1, "text": "a", "was": None, "conf": 1.0}
    whole = digits["events"][0]["data"]
    vq = {**whole["image"], "tokens": "vq"}
    bad = [
        {"events": []},
        {"events": [{}]},
        {"events": [{"event": "diffusion.created", "data": None}]},
        {"events": story["events"][1:]},
        {"events": story["events"][:1]},
        {"events": story["events"], "more": 1},
        edited(story, 2, changes=[beyond]),
        edited(story, 2, choice=1),
        edited(story, 2, choice=-1),
        edited(story, 1, snapshot={"ids": [1], "texts": ["a"]}),
        edited(story, 0, choices=[]),
        edited(story, 0, choices=[{"positions": 10**9, "editable": []}]),
        edited(story, 0, mask={"id": "x"}),
        edited(digits, 0, image={**whole["image"], "width": 13}),
        edited(digits, 0, image=vq),
        edited(digits, 0, image=vq, model="none"),
    ]
    for run in some(bad[:-2], 2):
        response, text = call(both, "POST", PATH, {"runs": [run]})
        assert response.status == 400, run
        assert json.loads(text)["error"]["param"] == "runs", text
    # codes are drawn by the model that made them, where it is served
    assert call(both, "POST", PATH, {"runs": [bad[-2]]})[0].status == 200
    assert call(both, "POST", PATH, {"runs": [bad[-1]]})[0].status == 400
    assert call(both, "POST", PATH, {"runs": []})[0].status == 400
    assert call(both, "POST", PATH, {"runs": [story], "format": "bmp"})[0].status == 400


def test_any_text_can_be_drawn(both, story):
    texts = ("</script>", "\n\n\n", "\x00", "字符", "a" * 5000, "", " ", "\u202e", "🦊")
    for text in some(texts, 2):
        run = copy.deepcopy(story)
        for event in run["events"]:
            for change in event["data"].get("changes", []):
                change["text"] = text
        assert drawn(both, [run], "png").width == 760
