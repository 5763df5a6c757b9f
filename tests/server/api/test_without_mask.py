"""A checkpoint of uniform noise alone (UDLM), which has no mask id, over HTTP."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from loadtest import sse
from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.families.dit import DiT
from models.families.dit_config import DiTConfig
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of

SIZES = {"model_length": 96, "hidden_dim": 32, "cond_dim": 8, "n_blocks": 1, "n_heads": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("udlm") / "udlm"
    folder.mkdir()
    config = {"model_type": "dit", "vocab_size": 4454, "eos_token_id": 1, "mask_token_id": None}
    torch.manual_seed(3)
    model = DiT(DiTConfig.from_dict(config | SIZES))
    save_file({n: p.detach() for n, p in model.named_parameters()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | SIZES))
    shutil.copy(BUNDLED / "stories" / "tokenizer.json", folder / "tokenizer.json")
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


BODY = {"prompt": "Once upon a time", "max_tokens": 20, "steps": 6, "seed": 5}


def ask(served, path: str, body: dict) -> tuple[int, str]:
    response, text = call(served, "POST", path, body)
    return response.status, text.decode(errors="replace")


def test_models_without_mask_offer_the_samplers_that_need_none(served):
    _, text = call(served, "GET", "/v1/models")
    facts = json.loads(text)["data"][0]["diffusion"]
    assert facts["mask_token"] is None and facts["samplers"] == ["ancestral"]
    assert (facts["sampler"], facts["mixing_ratio"]) == ("ancestral", 1.0)
    assert json.loads(call(served, "GET", "/tokenizer_info")[1])["mask_token"] is None


def test_texts_streams_scores_and_trajectories_work_without_mask(served):
    status, text = ask(served, "/v1/completions", BODY)
    answer = json.loads(text)
    assert status == 200 and answer["usage"]["completion_tokens"] <= 20
    assert answer["usage"]["diffusion"]["unmasked"] == 0
    status, text = ask(served, "/v1/completions", BODY | {"stream": True, "trajectory": "delta"})
    assert status == 200 and text.rstrip().endswith("data: [DONE]")
    records = [json.loads(e.data) for e in sse.decode(text) if e.data != "[DONE]"]
    steps = [r["diffusion"] for r in records if "diffusion" in r]
    assert steps and all(s["masked"] == 0 for s in steps)
    assert {c["op"] for s in steps for c in s["changes"]} <= {"refine"}
    status, text = ask(served, "/v1/score", {"text": "Once upon", "samples": 4})
    assert status == 200 and json.loads(text)["mixing_ratio"] == 1.0
    status, text = ask(served, "/v1/diffusion/trajectories", BODY)
    assert status == 200 and '"mask":null' in text.replace(" ", "")
    run = [{"event": e.name, "data": json.loads(e.data)} for e in sse.decode(text)]
    picture, _ = call(served, "POST", "/v1/diffusion/pictures", {"runs": [{"events": run}]})
    assert picture.status == 200


@pytest.mark.parametrize(
    ("field", "chosen"),
    [
        ("sampler", {"sampler": "topk"}),
        ("sampler", {"sampler": "threshold"}),
        ("sampler", {"sampler": "gidd"}),
        ("sampler", {"sampler": "remdm"}),
        ("mixing_ratio", {"mixing_ratio": 0.5}),
        ("start", {"start": "masks"}),
        ("infill", {"infill": True, "prompt": [5, 6]}),
        ("guidance_scale", {"guidance_scale": 2.0}),
    ],
)
def test_choices_that_need_a_mask_are_refused_by_name_without_one(served, field, chosen):
    status, text = ask(served, "/v1/completions", BODY | chosen)
    assert status == 400 and json.loads(text)["error"]["param"] == field, text


def test_scores_that_need_a_mask_are_refused_by_name_without_one(served):
    for field, chosen in (
        ("estimator", {"estimator": "llada"}),
        ("mixing_ratio", {"mixing_ratio": 0.1}),
    ):
        status, text = ask(served, "/v1/score", {"text": "Once upon", "samples": 4} | chosen)
        assert status == 400 and json.loads(text)["error"]["param"] == field, text


def test_a_model_without_mask_makes_no_decisions(served):
    question = {"type": "predicate", "instructions": "Is there a dog?"}
    status, text = ask(served, "/v1/decisions", {"input": "Tom", "questions": [question]})
    assert status == 400 and json.loads(text)["error"]["param"] == "model"
    assert "has no mask" in text
