"""Checkpoints of other families than LLaDA, DiT and U-Net through the command line and HTTP."""

from __future__ import annotations

import json
import shutil

import pytest
import requests
import torch

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from tests.support.effort import some
from tests.support.http import events
from tests.support.processes import xdlm
from tests.support.published import write_folder
from tests.support.serving import make_engine, run_server, settings_of

STORIES = BUNDLED / "stories"


def decode(
    folder, prompt: list[int], steps: int, sampler: str, *flags: str, length: int = 16
) -> list[list[int]]:
    """All states of a greedy run of ``xdlm generate``."""
    done = xdlm(
        *("generate", "--checkpoint", str(folder), "--prompt-ids", ",".join(map(str, prompt))),
        *("--json", "--max-tokens", str(length), "--steps", str(steps), "--sampler", sampler),
        *("--temperature", "0", *flags),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["states"]


def test_official_runs_of_llada_moe_from_the_command_line(tmp_path, golden):
    folder = write_folder(tmp_path / "m", golden("families/lladamoe_tiny_full"))
    for case, t in some(golden("families/lladamoe_gen_full").cases(), 3):
        prompt = t["prompt"][0].tolist()
        block = str(case["block_length"])
        chosen = ("--mixing-ratio", "0", "--block-length", block)
        found = decode(folder, prompt, case["steps"], "topk", *chosen)
        assert found == t["x_traj"][:, 0].tolist()


def test_official_runs_of_dream_from_the_command_line(tmp_path, golden):
    folder = write_folder(tmp_path / "d", golden("families/dream_tiny"))
    (t,) = (t for case, t in golden("families/dream_gen").cases() if case["prompt_seed"] == 1003)
    found = decode(folder, t["prompt"][0].tolist(), 8, "dream", "--alg", "maskgit_plus")
    assert found == t["x_traj"][:, 0].tolist()


@pytest.mark.parametrize("family", ["dream", "llada_moe"])
def test_a_family_is_served_by_every_sampler_alone_and_in_company(tmp_path, family):
    folder = tmp_path / family
    shape = parse_shape("tiny", family, STORIES)
    write_random(folder, shape, family=family, dtype=torch.float32, tokenizer=STORIES)
    shutil.copy(STORIES / "tokenizer_config.json", folder)
    engine = make_engine(load_checkpoint(folder))
    running = run_server(engine, settings_of())
    served = next(running)
    try:
        (model,) = requests.get(f"{served.url}/v1/models").json()["data"]
        assert (model["id"], model["diffusion"]["family"]) == (family, family)
        assert model["diffusion"]["mixing_ratio"] == 0.0
        for sampler in model["diffusion"]["samplers"]:
            body = {"prompt": "Once", "max_tokens": 24, "steps": 6, "seed": 5, "sampler": sampler}
            texts = []
            for n in (1, 3):
                answer = requests.post(f"{served.url}/v1/completions", json={**body, "n": n})
                assert answer.status_code == 200, answer.text
                texts.append(answer.json()["choices"][0]["text"])
            assert texts[0] == texts[1]
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, "steps": 4}
        answer = requests.post(f"{served.url}/v1/chat/completions", json=chat)
        assert answer.status_code == 200, answer.text
        score = requests.post(f"{served.url}/v1/score", json={"text": "Once upon a time"})
        assert score.status_code == 200 and score.json()["nats"] > 0
    finally:
        next(running, None)


@pytest.mark.parametrize(
    "family",
    ["sdar", pytest.param("sdar_moe", marks=pytest.mark.slow), "llada2_moe", "fast_dllm_v2"],
)
def test_block_families_are_served(tmp_path, family):
    folder = tmp_path / family
    shape = parse_shape("tiny", family, STORIES)
    write_random(folder, shape, family=family, dtype=torch.float32, tokenizer=STORIES)
    loaded = load_checkpoint(folder)
    block = loaded.info.block_length or 0
    running = run_server(make_engine(loaded), settings_of(checkpoints=[family]))
    served = next(running)
    try:
        (model,) = requests.get(f"{served.url}/v1/models").json()["data"]
        assert model["diffusion"]["samplers"] == ["topk", "threshold", "dream"]
        assert model["diffusion"]["block_length"] == block
        texts = []
        for n, more in ((1, {}), (3, {}), (1, {"sampler": "topk", "steps": 64, "temperature": 0})):
            body = {"prompt": "Once upon", "max_tokens": 21, "seed": 5, "n": n, **more}
            answer = requests.post(f"{served.url}/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            usage = answer.json()["usage"]
            assert usage["completion_tokens"] <= 21 * n and usage["diffusion"]["steps"] <= 64
            texts.append(answer.json()["choices"][0]["text"])
        assert texts[0] == texts[1]
        body = {"prompt": "Once upon", "max_tokens": 21, "seed": 5, "stream": True}
        answer = requests.post(f"{served.url}/v1/completions", json={**body, "trajectory": "delta"})
        *chunks, done = events(answer.text)
        pieces = [c["text"] for chunk in chunks for c in json.loads(chunk)["choices"]]
        assert done == "[DONE]" and "".join(pieces) == texts[0]
        for field, value in (
            ("block_length", block * 2),
            ("cache", "dual"),
            ("sampler", "ancestral"),
        ):
            answer = requests.post(
                f"{served.url}/v1/completions", json={"prompt": "Once", field: value}
            )
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == field
        score = requests.post(f"{served.url}/v1/score", json={"text": "Once upon a time"})
        assert score.status_code == 400 and score.json()["error"]["param"] == "model"
    finally:
        next(running, None)
