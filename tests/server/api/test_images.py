"""Images by denoising: OpenAI's routes and events, trajectories, and two models in one server."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import openai
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.checkpoints.load import Checkpoint, load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from sampler import make_params
from server.engine.events import Done, GenerationRequest
from server.engine.factory import engine_of
from server.engine.metrics import Metrics
from tests.support.http import BODY, call, events
from tests.support.serving import run_server, settings_of
from tests.support.trajectory_client import records, replayed, steps_of

DRAW = {"model": "pictures", "class_label": 7, "steps": 5, "seed": 3, "mixing_ratio": 0.2}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("images") / "pictures"
    write_random(
        folder, parse_shape("tiny-image", "dit"), family="dit", seed=1, dtype=torch.float32
    )
    weights = load_file(folder / "model.safetensors")  # labels are to make a difference
    save_file({name: 8 * tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "class_names": NAMES}))
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def both(tiny, pictures):
    """A text model and one of images behind one address."""
    metrics = Metrics()
    text, images = (engine_of(c, settings_of(), metrics) for c in (tiny, pictures))
    yield from run_server(text, settings_of(), images)


@pytest.fixture
def client(both):
    with openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def draw(served, **body):
    response, text = call(served, "POST", PATH, body)
    return response.status, json.loads(text)


def pixels_of(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_the_sdk_draws(client, pictures):
    answer = client.images.generate(
        model="pictures", prompt="seven", n=2, size="12x12", extra_body={"steps": 4, "seed": 5}
    )
    assert len(answer.data) == 2 and answer.size == "12x12" and answer.output_format == "png"
    one, other = (pixels_of(image.b64_json) for image in answer.data)
    assert one.shape == (12, 12) and one.dtype == np.uint8 and (one != other).any()
    assert set(np.unique(one)) <= {round(level * 255 / 7) for level in range(8)}
    assert answer.usage.output_tokens == 288 and answer.usage.input_tokens == 0


def test_the_sdk_streams_partial_images(client):
    stream = client.images.generate(
        model="pictures",
        prompt="7",
        stream=True,
        partial_images=2,
        extra_body={"steps": 6, "seed": 5, "mixing_ratio": 0},
    )
    told = list(stream)
    assert [e.type for e in told] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    assert [e.partial_image_index for e in told[:2]] == [0, 1]
    first, second, last = (pixels_of(e.b64_json) for e in told)
    grey = [(image == 128).sum() for image in (first, second, last)]  # masks
    assert grey[0] > grey[1] > grey[2] == 0
    assert told[-1].usage.output_tokens == 144
    whole = client.images.generate(
        model="pictures", prompt="7", extra_body={"steps": 6, "seed": 5, "mixing_ratio": 0}
    )
    assert (pixels_of(whole.data[0].b64_json) == last).all()


async def test_an_image_is_the_engines_canvas(both, pictures):
    status, answer = draw(both, **DRAW)
    assert status == 200
    params = make_params(steps=5, seed=3, mixing_ratio=0.2, class_label=7)
    engine = engine_of(pictures, settings_of())
    engine.start()
    try:
        done = [e async for e in engine.submit(GenerationRequest.continuing([], 144, params))][-1]
    finally:
        engine.stop()
    assert isinstance(done, Done)
    expected = pictures.pixels(torch.tensor([done.tokens]))[0, ..., 0].numpy()
    assert (pixels_of(answer["data"][0]["b64_json"]) == expected).all()


def test_labels_and_guidance_change_what_is_drawn(both):
    def drawn(**change):
        return draw(both, **{**DRAW, **change})[1]["data"][0]["b64_json"]

    assert drawn() == drawn(guidance_scale=1) == drawn(class_label=None, prompt=" Seven ")
    assert len({drawn(), drawn(class_label=1), drawn(guidance_scale=3), drawn(seed=4)}) == 4
    usage = draw(both, **DRAW, guidance_scale=2)[1]["usage"]["diffusion"]
    alone = draw(both, **DRAW)[1]["usage"]["diffusion"]
    assert usage["forwards"] > alone["forwards"]


def test_a_webp_loses_nothing(both):
    png, webp = (draw(both, **DRAW, output_format=f)[1]["data"][0] for f in ("png", "webp"))
    assert base64.b64decode(webp["b64_json"])[8:12] == b"WEBP"
    assert (pixels_of(webp["b64_json"])[..., 0] == pixels_of(png["b64_json"])).all()


@pytest.mark.parametrize(
    "change, field, words",
    [
        ({"class_label": None}, "class_label", "required"),
        ({"class_label": 10}, "class_label", "is 10; the limit is 9"),
        ({"class_label": -1}, "class_label", "below 0"),
        ({"class_label": True}, "class_label", "integer"),
        ({"prompt": "eleven", "class_label": None}, "prompt", "0 to 9, zero"),
        ({"prompt": "six"}, "prompt", "different"),
        ({"size": "1024x1024"}, "size", "12x12"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "jpeg"}, "output_format", "png"),
        ({"partial_images": 2}, "partial_images", "stream"),
        ({"partial_images": 4, "stream": True}, "partial_images", "3"),
        ({"quality": "hd"}, "quality", "not supported"),
        ({"n": 129}, "n", "129; the limit is 128"),
        ({"max_tokens": 5}, "max_tokens", "unknown"),
        ({"trajectory": "delta", "stream": True}, "trajectory", "/v1/diffusion/trajectories"),
        ({"steps": 0}, "steps", "between 1"),
        ({"model": "none"}, "model", "does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(both, change, field, words):
    status, answer = draw(both, **{**DRAW, **change})
    assert status == (404 if field == "model" else 400)
    assert answer["error"]["param"] == field and words in answer["error"]["message"]


def test_each_route_says_which_one_the_model_is_for(both):
    for path, body in (
        ("/v1/completions", {**BODY, "model": "pictures"}),
        (
            "/v1/chat/completions",
            {"model": "pictures", "messages": [{"role": "user", "content": "x"}]},
        ),
        ("/v1/score", {"model": "pictures", "text": "x"}),
        ("/tokenize", {"model": "pictures", "prompt": "x"}),
    ):
        response, text = call(both, "POST", path, body)
        error = json.loads(text)["error"]
        assert response.status == 400 and error["param"] == "model"
        assert "POST /v1/images/generations" in error["message"]
    status, answer = draw(both, **{**DRAW, "model": "tiny"})
    assert status == 400 and "POST /v1/completions" in answer["error"]["message"]


def test_a_request_without_a_model_gets_the_first_that_can_answer(both):
    body = {name: value for name, value in DRAW.items() if name != "model"}
    assert draw(both, **body)[1]["model"] == "pictures"
    response, text = call(both, "POST", "/v1/completions", BODY)
    assert response.status == 200 and json.loads(text)["model"] == "tiny"


def test_both_models_are_listed(both, client):
    tiny, pictures = client.models.list().data
    assert (tiny.id, pictures.id) == ("tiny", "pictures")
    assert tiny.diffusion["image"] is None and tiny.diffusion["classes"] == 0
    assert pictures.diffusion["classes"] == 10 and pictures.diffusion["class_names"] == NAMES
    image = {"width": 12, "height": 12, "channels": 1, "tokens": "grey levels", "levels": 8}
    assert pictures.diffusion["image"] == image
    assert client.models.retrieve("pictures").id == "pictures"


def test_a_trajectory_of_an_image_replays_to_it(both):
    told = records(both, {**DRAW, "n": 2, "guidance_scale": 2})
    created, *_, completed = [r["data"] for r in told]
    assert created["image"]["width"] == 12 and created["mask"]["id"] == 8
    assert created["request"]["class_label"] == 7 and "max_tokens" not in created["request"]
    for choice in completed["choices"]:
        steps = steps_of(told, choice["index"])
        assert replayed(steps, mask=8) == choice["ids"] and len(choice["ids"]) == 144
        drawn = np.array(choice["ids"]).reshape(12, 12) * 255 / 7
        assert (pixels_of(choice["b64_json"]) == drawn.round()).all()
    again = records(both, created["request"])[-1]["data"]["choices"]
    assert again == completed["choices"]
    plain = draw(both, **DRAW, n=2, guidance_scale=2)[1]["data"]
    assert [c["b64_json"] for c in plain] == [c["b64_json"] for c in completed["choices"]]


def test_a_trajectory_of_several_classes_has_images_of_each(both):
    asked = {**DRAW, "n": 2, "guidance_scale": 2}
    asked = {name: value for name, value in asked.items() if name != "class_label"}
    told = records(both, {**asked, "class_labels": [7, 1]})
    created, *_, completed = [r["data"] for r in told]
    assert created["request"]["class_labels"] == [7, 1]
    images = [choice["b64_json"] for choice in completed["choices"]]
    seeds = [choice["seed"] for choice in created["choices"]]
    assert len(images) == 4 and len(set(seeds)) == 4
    alone = draw(both, **{**asked, "class_label": 7})[1]["data"]
    assert [image["b64_json"] for image in alone] == images[:2]
    for at in (2, 3):
        one = draw(both, **{**asked, "n": 1, "class_label": 1, "seed": seeds[at]})[1]["data"]
        assert one[0]["b64_json"] == images[at]
    again = records(both, created["request"])[-1]["data"]["choices"]
    assert again == completed["choices"]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"class_labels": [1]}, "class_label"),
        ({"class_label": None, "prompt": "7", "class_labels": [1]}, "prompt"),
        ({"class_label": None, "class_labels": [1, 10]}, "class_labels"),
        ({"class_label": None, "class_labels": []}, "class_labels"),
        ({"class_label": None, "class_labels": [0] * 999}, "class_labels"),
        ({"trajectory_guesses": True}, "trajectory_guesses"),
        (
            {"model": "tiny", "prompt": "Tom", "class_label": None, "class_labels": [1]},
            "class_labels",
        ),
        ({"max_tokens": 5}, "max_tokens"),
        ({"echo": True}, "echo"),
        ({"prompt": ["7"]}, "prompt"),
        ({"class_label": None}, "class_label"),
        ({"model": "tiny", "prompt": "Tom"}, "class_label"),
        ({"model": "tiny", "class_label": None}, "prompt"),
    ],
)
def test_a_trajectorys_fields_are_those_of_its_kind(both, change, field):
    response, text = call(both, "POST", "/v1/diffusion/trajectories", {**DRAW, **change})
    assert response.status == 400 and json.loads(text)["error"]["param"] == field


def test_a_stream_that_fails_ends_with_an_error(both, tmp_path, pictures):
    folder = tmp_path / "broken"
    write_random(
        folder, parse_shape("tiny-image", "dit"), family="dit", seed=1, dtype=torch.float32
    )
    broken = load_checkpoint(folder)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)  # type: ignore[union-attr]
    server = run_server(engine_of(broken, settings_of()), settings_of())
    served = next(server)
    body = {**DRAW, "model": "broken", "stream": True, "partial_images": 1}
    response, text = call(served, "POST", PATH, body)
    last = json.loads(events(text.decode())[-1])
    assert response.status == 200 and last["error"]["code"] == "not_finite"
    next(server, None)
