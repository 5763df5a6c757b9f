"""DiffusionGemma over HTTP, beside another checkpoint."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import torch

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint, load_network
from models.checkpoints.random_init import parse_shape, write_random
from models.families.diffusion_gemma import DiffusionGemma
from tests.support.canvases import Canvas, denoised, remembered
from tests.support.http import events
from tests.support.serving import make_engine, run_server, settings_of, write_tiny

STORIES = BUNDLED / "stories"
BODY = {
    "model": "gemma",
    "prompt": "Once upon",
    "max_tokens": 40,
    "seed": 5,
    "max_denoising_steps": 3,
    "entropy_bound": 40,
}

OTHER = {"model": "tiny", "max_denoising_steps": None, "entropy_bound": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "gemma"
    shape = parse_shape("tiny", "diffusion_gemma", STORIES)
    write_random(folder, shape, family="diffusion_gemma", dtype=torch.float32, tokenizer=STORIES)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    shutil.copy(STORIES / "tokenizer_config.json", folder)
    return folder


@pytest.fixture(scope="module")
def served(folder):
    engine = make_engine(load_checkpoint(folder))
    other = make_engine(load_checkpoint(write_tiny(folder.parent / "tiny")))
    yield from run_server(engine, settings_of(checkpoints=["gemma", "tiny"]), other)


def post(served, route: str = "completions", **more) -> requests.Response:
    body = {name: value for name, value in (BODY | more).items() if value is not None}
    return requests.post(f"{served.url}/v1/{route}", json=body)


def text_of(served, **more) -> str:
    answer = post(served, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def test_the_model_is_described(served):
    models = requests.get(f"{served.url}/v1/models").json()["data"]
    facts = next(m["diffusion"] for m in models if m["id"] == "gemma")
    assert (facts["family"], facts["samplers"]) == ("diffusion_gemma", ["entropy_bound"])
    assert (facts["block_length"], facts["mask_token"]) == (16, None)
    assert {"t_min", "t_max", "stop_entropy"} <= set(facts["fields"])


def test_texts_are_the_same_alone_in_company_and_beside_another_checkpoint(served):
    whole = text_of(served)
    assert whole and text_of(served) == whole != text_of(served, seed=6)
    answer = post(served, n=4).json()
    assert answer["choices"][0]["text"] == whole
    assert len({choice["text"] for choice in answer["choices"]}) == 4
    usage = answer["usage"]["diffusion"]
    assert usage["steps"] <= 9 and usage["unmasked"] > 0
    other = requests.post(
        f"{served.url}/v1/completions",
        json={"model": "tiny", "prompt": "Once", "max_tokens": 9, "steps": 4, "seed": 1},
    )
    assert other.status_code == 200 and text_of(served) == whole


def test_texts_are_the_same_among_other_requests_and_with_a_reader(served):
    """Other lengths and settings at once: whole, streamed with the trajectory, and recorded."""
    bodies = [
        {"seed": 5},
        {"seed": 6, "max_tokens": 16, "t_max": 0.5},
        {"seed": 7, "max_tokens": 50, "temperature": 0.5, "top_p": 0.9},
        {"seed": 8, "prompt": "A dog and a cat went home", "max_denoising_steps": 5},
        {"seed": 9, "pinned": [None, 300, None, 301], "draft": [7, 8, 9]},
        {"seed": 9, "max_tokens": 3, "logit_bias": {"300": 4}, "entropy_bound": 1},
    ]
    alone = [text_of(served, **body) for body in bodies]

    def streamed(body: dict) -> str:
        answer = post(served, stream=True, trajectory="delta", **body)
        chunks = [json.loads(c) for c in events(answer.text)[:-1]]
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])

    def recorded(body: dict) -> str:
        told = events(post(served, "diffusion/trajectories", stream=True, **body).text)
        (choice,) = json.loads(told[-1])["choices"]
        return choice["text"]

    kinds = (lambda body: text_of(served, **body), streamed, recorded)
    with ThreadPoolExecutor(18) as pool:
        for kind in [[pool.submit(kind, body) for body in bodies] for kind in kinds]:
            assert [found.result() for found in kind] == alone


def test_text_is_streamed_canvas_by_canvas(served):
    whole = text_of(served)
    chunks = [json.loads(c) for c in events(post(served, stream=True).text)[:-1]]
    pieces = [choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["text"]]
    assert "".join(pieces) == whole and 2 <= len(pieces) <= 4
    answer = post(served, stream=True, trajectory="delta")
    records = [json.loads(c).get("diffusion") for c in events(answer.text)[:-1]]
    ops = {c["op"] for record in records if record for c in record["changes"]}
    assert {"unmask", "remask"} <= ops and {r["block"] for r in records if r} == {0, 1, 2}


def test_stop_strings_end_the_text_before_later_canvases(served):
    whole = text_of(served)
    stop = whole[8:11]
    answer = post(served, stop=[stop]).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop" and choice["text"] == whole[: whole.index(stop)]
    assert answer["usage"]["diffusion"]["steps"] < 9


def test_settings_of_a_request_are_read(served):
    whole = text_of(served)
    for field, value in {
        "temperature": 0.3,
        "t_max": 0.5,
        "t_min": 0.1,
        "entropy_bound": 2,
        "max_denoising_steps": 4,
        "top_p": 0.05,
    }.items():
        assert text_of(served, **{field: value}) != whole, field
    greedy = text_of(served, temperature=0)
    assert greedy == text_of(served, temperature=0)
    banned = post(served, logit_bias={"300": 100}, max_tokens=8, temperature=0)
    piece = served.engine.checkpoint.piece(300)
    assert banned.json()["choices"][0]["text"].count(piece.strip()) == 8
    refused = {str(id_): -100 for id_ in range(200)}
    answer = post(served, "diffusion/trajectories", logit_bias=refused, max_tokens=16, stream=True)
    (choice,) = json.loads(events(answer.text)[-1])["choices"]
    written = choice["ids"][-16:]
    assert min(written) >= 200


def recorded(served, **more) -> list[dict]:
    """The records of a run: its step records, then the last one."""
    answer = post(served, "diffusion/trajectories", stream=True, **more)
    assert answer.status_code == 200, answer.text
    found = [json.loads(data) for data in events(answer.text)]
    return [r for r in found if "step" in r and "changes" in r] + found[-1:]


def test_a_text_begins_with_a_draft(served):
    """It replaces the uniform ids of the first canvas, and nothing else."""
    prompt = len(recorded(served)[0]["snapshot"]["ids"]) - 40
    first = recorded(served)[0]["snapshot"]["ids"][prompt:]
    ids = [7, None, 9, 10, None, 12]
    begun, *_, last = recorded(served, draft=ids)
    canvas = begun["snapshot"]["ids"][prompt:]
    assert canvas == [7, first[1], 9, 10, first[4], 12, *first[6:]]
    text = last["choices"][0]["text"]
    assert text != text_of(served) and text_of(served, draft=ids) == text
    assert text_of(served, draft=canvas[:16]) == text_of(served, draft=ids)
    assert text_of(served, draft=first[:16]) == text_of(served) == text_of(served, draft=[])
    words = served.engine.checkpoint.tokenizer.encode_behind(" there was a cat")
    as_text, as_ids = (text_of(served, draft=draft) for draft in (" there was a cat", words))
    assert as_text == as_ids != text_of(served)


def test_pinned_positions_keep_their_tokens(served):
    """In the first canvas and in later ones, at every step, whatever the model says."""
    pins: list[int | None] = [None] * 40
    for at, id_ in ((0, 300), (5, 301), (17, 302), (18, 303), (39, 304)):
        pins[at] = id_
    more = {"pinned": pins, "draft": [7, 8], "n": 2, "logit_bias": {"301": -100}, "top_p": 0.5}
    *steps, last = recorded(served, **more)
    prompt = len(steps[0]["snapshot"]["ids"]) - 40
    for step in steps:
        if "snapshot" in step:
            ids = step["snapshot"]["ids"][prompt:]
            assert all(ids[at] == id_ for at, id_ in enumerate(pins) if id_ is not None)
        assert not {c["pos"] - prompt for c in step["changes"]} & {0, 5, 17, 18, 39}
    for choice in last["choices"]:
        ids = choice["ids"][prompt:]
        assert all(ids[at] == id_ for at, id_ in enumerate(pins) if id_ is not None)
        assert 301 not in ids[:5] + ids[6:]
    one, two = (choice["text"] for choice in last["choices"])
    alone = {n: v for n, v in more.items() if n != "n"}
    assert text_of(served, **alone) == one != two and one != text_of(served)
    assert text_of(served, pinned=[None] * 40) == text_of(served, pinned=[]) == text_of(served)


def test_chats_and_trajectories_are_served(served):
    messages = [{"role": "user", "content": "Once upon a time"}]
    answer = post(served, "chat/completions", messages=messages, prompt=None)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    recorded = post(served, "diffusion/trajectories")
    assert recorded.status_code in (200, 201, 202), recorded.text


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("latency_budget_ms", {"latency_budget_ms": 500}),
        ("sampler", {"sampler": "ancestral"}),
        ("block_length", {"block_length": 8}),
        ("suffix", {"suffix": " the end"}),
        ("infill", {"infill": True}),
        ("draft", {"draft": [1] * 17}),
        ("draft", {"draft": [1] * 9, "max_tokens": 8}),
        ("draft", {"draft": "Once upon a time there was a cat " * 3}),
        ("draft", {"draft": [1, 4454]}),
        ("draft", {"draft": [1.5]}),
        ("pinned", {"pinned": [None] * 41}),
        ("pinned", {"pinned": [None, -1]}),
        ("pinned", {"pinned": "text"}),
        ("draft", {"draft": [1], **OTHER}),
        ("pinned", {"pinned": [1], **OTHER}),
        ("steps", {"steps": 2}),
        ("t_min", {"t_min": 0}),
        ("guidance_scale", {"guidance_scale": 2}),
        ("cache", {"cache": "prompt"}),
        ("confidence_threshold", {"confidence_threshold": 0.5}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(served, field, more):
    answer = post(served, **more)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


def test_images_and_scores_are_refused(served):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, picture]}]
    answer = post(served, "chat/completions", messages=messages, prompt=None)
    assert answer.status_code == 400 and "image_url" in answer.text
    score = requests.post(f"{served.url}/v1/score", json={"model": "gemma", "text": "Once"})
    assert score.status_code == 400 and score.json()["error"]["param"] == "model"


TOLD = {"max_tokens": 32, "temperature": 0.7, "logit_bias": {"300": 3}, "ignore_eos": True}
"""Two whole canvases."""


def told(served, **more) -> dict:
    """The log-probabilities of a completion."""
    answer = post(served, **{**TOLD, "logprobs": 3, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["logprobs"]


def test_log_probabilities_are_the_models_in_the_step_that_ends_a_canvas(served, folder):
    """Recomputed from the trajectory: each step of each canvas, through a network of its own that
    remembers what the steps before expected.
    """
    network = load_network(folder)
    assert isinstance(network, DiffusionGemma)
    network.reserve(128)
    *steps, last = recorded(served, **TOLD)
    ids = list(steps[0]["snapshot"]["ids"])
    prompt, encoded, phase, block = len(ids) - 32, 0, 0, 0
    expected: dict[int, tuple[int, torch.Tensor]] = {}
    for step in steps[1:]:
        phase = phase + 1 if step["block"] == block and step["step"] > 1 else 0
        block = step["block"]
        begin = prompt + 16 * block
        tokens = torch.tensor(ids)
        part = Canvas(tokens[encoded:begin], tokens[begin : begin + 16], 0, encoded, phase)
        _, (logits,) = denoised(network, part)
        encoded = begin
        logits = logits[:, : network.config.vocab_size].clone()
        logits[:, 300] += 3
        heat = 0.7 * (0.8 - 0.4 * phase / 3)
        slots = range(begin, begin + 16)
        remembered(network, (logits / heat).softmax(-1), slots, phase + 1)
        for change in step["changes"]:
            ids[change["pos"]] = change["id"]
        for at, row in zip(slots, logits.double().log_softmax(-1), strict=True):
            expected[at] = step["step"], row
    assert ids == last["choices"][0]["ids"]
    found = told(served)
    assert len(found["tokens"]) == 32 and set(found["steps"]) == {3, 6}
    piece = served.engine.checkpoint.tokenizer.token
    for i in range(32):
        number, row = expected[prompt + i]
        own = ids[prompt + i]
        assert own == int(row.argmax())
        assert (found["tokens"][i], found["steps"][i]) == (piece(own).label, number)
        assert found["token_logprobs"][i] == pytest.approx(float(row[own]), abs=1e-3)
        entropy = float(torch.special.entr(row.exp()).sum())
        assert found["entropies"][i] == pytest.approx(entropy, abs=1e-3)
        best = row.topk(3).values.tolist()
        assert sorted(found["top_logprobs"][i].values())[::-1] == pytest.approx(best, abs=1e-3)
        assert found["top_logprobs"][i][found["tokens"][i]] == found["token_logprobs"][i]


def test_log_probabilities_change_no_token_and_are_the_same_in_streams_and_in_company(served):
    alone = told(served)
    assert "".join(alone["tokens"]).strip()
    whole = text_of(served, **TOLD)
    assert text_of(served, **TOLD, logprobs=3) == whole
    answer = post(served, **TOLD, logprobs=3, stream=True)
    chunks = [json.loads(c) for c in events(answer.text)[:-1]]
    parts = [part for c in chunks if c["choices"] and (part := c["choices"][0]["logprobs"])]
    assert len(parts) >= 2
    for name, values in alone.items():
        assert [value for part in parts for value in part[name]] == values
    bodies = [{}, {"logprobs": None}, {"seed": 6}, {"max_tokens": 50}, {"top_p": 0.5}]
    with ThreadPoolExecutor(10) as pool:
        for more in [*bodies, *bodies]:
            pool.submit(post, served, **{**TOLD, "logprobs": 2, **more})
        assert told(served) == alone
    choices = post(served, **TOLD, logprobs=3, n=3).json()["choices"]
    assert choices[0]["logprobs"] == alone != choices[1]["logprobs"]


def test_log_probabilities_of_pinned_tokens_are_null(served):
    pins: list[int | None] = [None] * 32
    pins[3], pins[20] = 301, 302
    found = told(served, pinned=pins)
    unknown = [i for i, log_p in enumerate(found["token_logprobs"]) if log_p is None]
    assert unknown == [3, 20]
    assert all(log_p <= 0 for log_p in found["token_logprobs"] if log_p is not None)


def test_log_probabilities_of_chats(served):
    more = {"messages": [{"role": "user", "content": "Once"}], "prompt": None}
    answer = post(served, "chat/completions", **TOLD, **more, logprobs=True, top_logprobs=2)
    assert answer.status_code == 200, answer.text
    entries = answer.json()["choices"][0]["logprobs"]["content"]
    assert len(entries) == 32 and {entry["step"] for entry in entries} == {3, 6}
    for entry in entries:
        best, second = (top["logprob"] for top in entry["top_logprobs"])
        assert second <= best == entry["logprob"] <= 0 < entry["entropy"]
