"""Trajectories as GIF and PNG."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from server.trajectories.form import Form, numbers_of
from server.trajectories.furniture import caption
from server.trajectories.lines import (
    SERIF,
    fitting,
    font_of,
    page_of,
    shortened,
    width_of,
    words,
)
from server.trajectories.picture_worker import Sheets
from server.trajectories.replay import Replay
from server.trajectories.themes import LIGHT
from tests.support.effort import some
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of

PATH = "/v1/diffusion/pictures"
WEB_TESTS = Path(__file__).parents[2] / "web"
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


def test_a_run_that_takes_too_many_pixels_is_thinned_out_and_then_drawn_smaller(tiny, story):
    size = 760 * 300
    for pixels, full in ((size * 11, True), (size * 4, False)):
        for served in run_server(make_engine(tiny), settings_of(max_picture_pixels=pixels)):
            response, text = call(served, "POST", PATH, {"runs": [story]})
            assert response.status == 200, text
            gif = Image.open(io.BytesIO(text))
            frames = len(frames_of(gif))
            assert frames * gif.width * gif.height <= pixels
            assert (gif.width == 760) == full
            assert ("of their size" in response.headers.get("x-picture-note", "")) != full


def test_lines_of_a_picture_end_between_words():
    told = json.loads((WEB_TESTS / "recorded" / "story.json").read_text())
    replay = Replay.of(told["events"])
    for editable in replay.editable:
        page = page_of(replay, replay.last(0), editable, 300, 1.0)
        shown = list(words(replay, replay.last(0), editable))
        lines: dict[float, list[int]] = {}
        for at, slot in enumerate(page.slots):
            assert (slot is None) == (shown[at] is None)
            if slot is not None:
                assert slot.x + slot.width <= 300 - 28 + 1
                lines.setdefault(slot.y, []).append(at)
        assert len(lines) > 1
        for first, *_ in list(lines.values())[1:]:
            word = shown[first]
            assert word is not None and (word.blank or word.breaks)  # lines end between words


def test_a_word_wider_than_its_place_is_drawn_smaller_and_then_cut():
    for width, cut in ((100, False), (50, False), (12, True), (3, True)):
        font = fitting(SERIF, 20, "pattern", width)
        text = shortened(font, "pattern", width)
        assert "pattern".startswith(text) and (text != "pattern") == cut
        assert width_of(font, text) <= width + 2
    assert fitting(SERIF, 20, "pattern", 100) is font_of(SERIF, 20)


def test_replays_by_time_end_one_after_the_other(story):
    slow = copy.deepcopy(story)
    for event in slow["events"]:
        if "elapsed_ms" in event["data"]:
            event["data"]["elapsed_ms"] *= 4
    replays = [Replay.of(story["events"]), Replay.of(slow["events"])]
    sheets = Sheets({}, io.BytesIO(), io.BytesIO(), LIGHT)
    form = Form(replays, sheets, LIGHT, by_time=True)
    states = list(numbers_of(form, 40))
    last = replays[0].length - 1
    assert states[0] == [0, 0] and states[-1] == [last, last]
    first_done = next(i for i, (quick, _) in enumerate(states) if quick == last)
    assert states[first_done][1] < last and first_done < 15


def test_a_picture_says_what_it_shows(story):
    told = caption([Replay.of(story["events"])])
    assert "Once <b>" in told and "9 steps" in told and "seed 3" in told and " s" in told


def test_characters_of_several_tokens_are_drawn_as_one(both):
    run = recorded(both, {"prompt": "你好 ï", "max_tokens": 4, "steps": 2, "seed": 1})
    snapshot = run["events"][1]["data"]["snapshot"]
    assert snapshot["bytes"] and all(0 < len(part) < 4 for part in snapshot["bytes"].values())
    texts = Replay.of(run["events"]).last(0).texts
    assert "".join(texts[1:]).strip().startswith("你好 ï")
    assert drawn(both, [run], "png").width == 760
    for bad in ({"x": [1]}, {"999999": [1]}, {"2": [256]}, {"2": []}, {"2": [1] * 65}, []):
        wrong = edited(run, 1, snapshot={**snapshot, "bytes": bad})
        assert call(both, "POST", PATH, {"runs": [wrong]})[0].status == 400


@pytest.mark.parametrize("field", ["theme", "sync"])
def test_a_word_that_is_no_choice_is_refused_by_name(both, story, field):
    response, text = call(both, "POST", PATH, {"runs": [story], field: "blue"})
    assert response.status == 400 and json.loads(text)["error"]["param"] == field
