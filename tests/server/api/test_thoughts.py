"""Thoughts of Gemma's models, apart from the answer of a chat."""

from __future__ import annotations

import json
import shutil

import pytest
import requests
import torch

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from tests.support.http import events
from tests.support.serving import make_engine, run_server, settings_of

STORIES = BUNDLED / "stories"
BEGIN, END = 4454, 4455
SAYS = {"model": "m", "seed": 5, "max_denoising_steps": 2, "temperature": 0, "max_tokens": 48}
TALK = [{"role": "user", "content": "Once"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model whose tokenizer has Gemma's special tokens around thoughts."""
    place = tmp_path_factory.mktemp("thoughts")
    shutil.copytree(STORIES, place / "stories")
    file = place / "stories" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    last = tokenizer["added_tokens"][-1]
    for id_, content in ((BEGIN, "<|channel>"), (END, "<channel|>")):
        tokenizer["added_tokens"].append({**last, "id": id_, "content": content})
    file.write_text(json.dumps(tokenizer))
    shape = parse_shape("tiny", "diffusion_gemma", STORIES)
    shape["text_config"] = {**shape["text_config"], "vocab_size": 4480}
    folder = place / "m"
    write_random(
        folder,
        shape,
        family="diffusion_gemma",
        dtype=torch.float32,
        tokenizer=place / "stories",
    )
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }} {% endfor %}"
    )
    engine = make_engine(load_checkpoint(folder))
    yield from run_server(engine, settings_of(checkpoints=["m"]))


def ask(served, path: str = "chat/completions", **more) -> requests.Response:
    asked = {"messages": TALK} if path == "chat/completions" else {"prompt": "Once"}
    answer = requests.post(f"{served.url}/v1/{path}", json={**SAYS, **asked, **more})
    assert answer.status_code == 200, answer.text
    return answer


def pins_of(served, *parts: str | int) -> list[int]:
    """Ids of texts and special tokens, one after the other."""
    encode = served.engine.checkpoint.tokenizer.encode_behind
    return [i for part in parts for i in ([part] if isinstance(part, int) else encode(part))]


@pytest.mark.parametrize("stop", [None, ["cat"]])
def test_thoughts_are_told_apart_whole_and_streamed(served, stop):
    pins = pins_of(
        served, BEGIN, "thought\nshe had a dog and a big red ball", END, "Lily had a cat"
    )
    (choice,) = ask(served, pinned=pins, stop=stop).json()["choices"]
    message = choice["message"]
    assert message["reasoning_content"] == "she had a dog and a big red ball"
    assert message["content"].startswith("Lily had a ")
    assert choice["finish_reason"] == ("stop" if stop else "length")
    assert message["content"] == "Lily had a " or not stop
    told = [
        json.loads(e) for e in events(ask(served, pinned=pins, stop=stop, stream=True).text)[:-1]
    ]
    deltas = [chunk["choices"][0]["delta"] for chunk in told]
    for name in ("reasoning_content", "content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]
    assert sum("reasoning_content" in delta for delta in deltas) >= 1


def test_thoughts_without_an_end_and_empty_ones(served):
    open_ = [*pins_of(served, BEGIN, "thought\n")]
    message = ask(served, pinned=open_, max_tokens=32).json()["choices"][0]["message"]
    assert message["reasoning_content"] and not message["content"]
    none = pins_of(served, BEGIN, "thought\n", END, "Lily had a cat")
    message = ask(served, pinned=none).json()["choices"][0]["message"]
    assert message["content"].startswith("Lily had a cat")
    assert "reasoning_content" not in message
    message = ask(served, pinned=pins_of(served, "Lily")).json()["choices"][0]["message"]
    assert "reasoning_content" not in message


def test_completions_have_all_and_conversations_may_send_thoughts_back(served):
    pins = pins_of(served, BEGIN, "thought\nshe had a dog", END, "Lily had a cat")
    (choice,) = ask(served, "completions", pinned=pins).json()["choices"]
    assert "she had a dog" in choice["text"] and "Lily had a cat" in choice["text"]
    said = {"role": "assistant", "content": "Lily", "reasoning_content": "she had a dog"}
    without = {"role": "assistant", "content": "Lily"}
    one, two = (ask(served, messages=[*TALK, m, *TALK]).json() for m in (said, without))
    assert one["choices"] == two["choices"]
