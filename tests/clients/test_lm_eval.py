"""lm-evaluation-harness: it continues stories, and tells real endings from shuffled ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from models.bundled import BUNDLED
from models.tokenization.tokenizer import TextTokenizer
from tests.clients.conftest import HERE, PYTHON, Program
from tests.support.http import post
from tests.support.serving import Served

pytestmark = pytest.mark.clients

FOLDER = BUNDLED / "stories"
TASKS = HERE / "tasks"
STOPS = ".?!;:#@%*/<>[]{"  # those of tasks/continue.yaml; the end token's text is the sixteenth


def run(program: Program, folder: Path, task: str, model: str, arguments: str, options: str):
    """(results, samples) of one task."""
    for file in TASKS.iterdir():
        shutil.copy(file, folder)
    program(
        *(PYTHON / "lm-eval", "run", "--model", model, "--model_args", arguments),
        *("--tasks", task, "--include_path", ".", "--output_path", "out", "--log_samples"),
        *options.split(),
    )
    (results,) = folder.glob("out/*/results_*.json")
    (samples,) = folder.glob(f"out/*/samples_{task}_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results.read_text())["results"][task], lines


def completions(served: Served) -> str:
    return (
        f"model=stories,base_url={served.url}/v1/completions,max_length=256,max_retries=1,"
        f"num_concurrent=2,tokenizer_backend=huggingface,tokenizer={FOLDER}"
    )


def test_generate_until(stories, program, tmp_path):
    _, samples = run(
        program, tmp_path, "continue", "local-completions", completions(stories), "--batch_size 4"
    )
    texts = [sample["resps"][0][0] for sample in samples]
    assert len(texts) == 24
    assert sum(len(text.split()) >= 3 for text in texts) >= 16
    assert not [text for text in texts if set(STOPS) & set(text)]


def test_generate_until_over_chat(stories, program, tmp_path):
    arguments = f"model=stories,base_url={stories.url}/v1/chat/completions,max_retries=1"
    options = "--apply_chat_template --limit 6"
    _, samples = run(program, tmp_path, "continue", "local-chat-completions", arguments, options)
    texts = [sample["resps"][0][0] for sample in samples]
    assert len(texts) == 6 and sum(len(text.split()) >= 3 for text in texts) >= 4


def test_an_echoed_prompt_is_scored_token_by_token(stories):
    """The body that lm-eval sends for log-likelihoods, and what it reads of the answer."""
    tokenizer = TextTokenizer.load(FOLDER / "tokenizer.json")
    items = [json.loads(line) for line in (TASKS / "endings.jsonl").read_text().splitlines()]
    texts = [f"{item['context']} {choice}" for item in items[:2] for choice in item["choices"]]
    prompts = [tokenizer.encode(text, start=False) for text in texts]
    assert len({len(prompt) for prompt in prompts}) > 1
    body = {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    for force in ({}, {"logit_bias": {"1": 100}}):  # the token behind may be the end token
        status, answer = post(stories, **body, seed=1234, **force)
        assert status == 200
        for prompt, choice in zip(prompts, answer["choices"], strict=True):
            told = choice["logprobs"]
            assert len(told["token_logprobs"]) == len(told["top_logprobs"]) == len(prompt) + 1
            assert all(p <= 0 and math.isfinite(p) for p in told["token_logprobs"])
            assert all(told["top_logprobs"])


def test_loglikelihoods_tell_real_endings_from_shuffled_ones(stories, program, tmp_path):
    """Guessing right 18 times of 24 by luck has odds of 1 to 88."""
    result, samples = run(
        program, tmp_path, "endings", "local-completions", completions(stories), "--batch_size 4"
    )
    scores = [float(response[0][0]) for sample in samples for response in sample["resps"]]
    assert len(scores) == 48 and all(s < 0 and math.isfinite(s) for s in scores)
    assert result["acc,none"] >= 0.75
