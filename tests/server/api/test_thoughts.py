"""Thoughts of Gemma's models, apart from the answer of a chat."""

from __future__ import annotations

import json
import shutil

import openai
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
        "{% set tone = tone | default('plain') %}{% set ns = namespace(x=1) %}"
        "{% if enable_thinking is defined and enable_thinking %}Think. {% endif %}{{ tone }}"
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


THOUGHT, SAID = "she had a dog and a big red ball", "Lily had a cat"


def test_responses_have_thoughts_as_an_item_of_their_own(served):
    pins = pins_of(served, BEGIN, f"thought\n{THOUGHT}", END, SAID)
    body = {**SAYS, "input": "Once", "pinned": pins, "max_output_tokens": SAYS["max_tokens"]}
    del body["max_tokens"]
    answer = requests.post(f"{served.url}/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    thoughts, message = answer.json()["output"]
    assert (thoughts["type"], thoughts["summary"]) == ("reasoning", [])
    assert thoughts["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    text = message["content"][0]["text"]
    assert text.startswith("Lily had a ") and THOUGHT not in text

    told = events(requests.post(f"{served.url}/v1/responses", json={**body, "stream": True}).text)
    told = [json.loads(event) for event in told]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    said = {"reasoning_text": "", "output_text": ""}
    for event in told:
        kind, _, what = event["type"].removeprefix("response.").partition(".")
        if what == "delta":
            said[kind] += event["delta"]
            assert event["output_index"] == list(said).index(kind)
    assert said == {"reasoning_text": THOUGHT, "output_text": text}
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    last = told[-1]["response"]["output"]
    assert done == last
    same = ("type", "content")
    assert [{n: item[n] for n in same} for item in last] == [
        {n: item[n] for n in same} for item in (thoughts, message)
    ]

    back = [{"role": "user", "content": "Once"}, *last, {"role": "user", "content": "Once"}]
    without = [item for item in back if item.get("type") != "reasoning"]
    one, two = (
        requests.post(f"{served.url}/v1/responses", json={**body, "input": items}).json()
        for items in (back, without)
    )
    assert one["usage"]["input_tokens"] == two["usage"]["input_tokens"]


def test_messages_have_thoughts_as_a_block_of_their_own(served):
    pins = pins_of(served, BEGIN, f"thought\n{THOUGHT}", END, SAID)
    body = {**SAYS, "messages": TALK, "pinned": pins}
    answer = requests.post(f"{served.url}/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    thinking, text = answer.json()["content"]
    assert thinking == {"type": "thinking", "thinking": THOUGHT, "signature": ""}
    assert text["text"].startswith("Lily had a ") and THOUGHT not in text["text"]

    told = events(requests.post(f"{served.url}/v1/messages", json={**body, "stream": True}).text)
    said = ["", ""]
    for event in map(json.loads, told):
        if event["type"] == "content_block_start":
            assert event["content_block"]["type"] == ("thinking", "text")[event["index"]]
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            said[event["index"]] += delta["thinking" if event["index"] == 0 else "text"]
            assert delta["type"] == ("thinking_delta", "text_delta")[event["index"]]
    assert said == [THOUGHT, text["text"]]

    talk = [*TALK, {"role": "assistant", "content": [thinking, text]}, *TALK]
    without = [*TALK, {"role": "assistant", "content": [text]}, *TALK]
    one, two = (
        requests.post(f"{served.url}/v1/messages", json={**body, "messages": m}).json()
        for m in (talk, without)
    )
    assert one["usage"]["input_tokens"] == two["usage"]["input_tokens"]
    wrong = [{"role": "user", "content": [thinking]}]
    refused = requests.post(f"{served.url}/v1/messages", json={**body, "messages": wrong})
    assert refused.status_code == 400 and "thinking is the assistant's" in refused.text


@pytest.mark.parametrize(
    "settings, text",
    [
        ({}, "plain"),
        ({"enable_thinking": False}, "plain"),
        ({"enable_thinking": True}, "Think. plain"),
        ({"enable_thinking": True, "tone": "kind <channel|>"}, "Think. kind <channel|>"),
        ({"enable_thinking": None}, "plain"),
    ],
)
def test_requests_set_variables_of_the_template(served, settings, text):
    tokenizer = served.engine.checkpoint.tokenizer
    expected = tokenizer.encode(f"Once {text}", start=False)
    body = {"messages": TALK, "chat_template_kwargs": settings}
    told = requests.post(f"{served.url}/tokenize", json=body).json()
    assert told["tokens"] == expected
    for path in ("chat/completions", "messages", "responses"):
        asked = {"input": "Once"} if path == "responses" else {"messages": TALK, "max_tokens": 16}
        asked |= {"model": "m", "max_denoising_steps": 1, "chat_template_kwargs": settings}
        answer = requests.post(f"{served.url}/v1/{path}", json=asked)
        assert answer.status_code == 200, answer.text
        count = "prompt_tokens" if path == "chat/completions" else "input_tokens"
        assert answer.json()["usage"][count] == len(expected)


@pytest.mark.parametrize(
    "settings, field",
    [
        ({"thinking": True}, "chat_template_kwargs.thinking"),
        ({"ns": 1}, "chat_template_kwargs.ns"),
        ({"loop": 1}, "chat_template_kwargs.loop"),
        ({"messages": "x"}, "chat_template_kwargs.messages"),
        ({"bos_token": "x"}, "chat_template_kwargs.bos_token"),
        ({"enable_thinking": [1]}, "chat_template_kwargs"),
        ({"enable_thinking": "x" * 257}, "chat_template_kwargs"),
        ({f"a{i}": 1 for i in range(17)}, "chat_template_kwargs"),
    ],
)
def test_variables_that_the_template_does_not_read_are_refused(served, settings, field):
    body = {**SAYS, "messages": TALK, "chat_template_kwargs": settings}
    answer = requests.post(f"{served.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


def test_completions_have_all_and_conversations_may_send_thoughts_back(served):
    pins = pins_of(served, BEGIN, "thought\nshe had a dog", END, "Lily had a cat")
    (choice,) = ask(served, "completions", pinned=pins).json()["choices"]
    assert "she had a dog" in choice["text"] and "Lily had a cat" in choice["text"]
    said = {"role": "assistant", "content": "Lily", "reasoning_content": "she had a dog"}
    without = {"role": "assistant", "content": "Lily"}
    one, two = (ask(served, messages=[*TALK, m, *TALK]).json() for m in (said, without))
    assert one["choices"] == two["choices"]


def test_openais_sdk_takes_thoughts_of_responses(served):
    pins = pins_of(
        served, BEGIN, f"thought\n{THOUGHT}", END, SAID, served.engine.checkpoint.ends[0]
    )
    asked = {"model": "m", "input": "Once", "max_output_tokens": SAYS["max_tokens"]}
    extra = {n: SAYS[n] for n in ("seed", "max_denoising_steps")} | {"pinned": pins}
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        whole = sdk.responses.create(**asked, temperature=0, extra_body=extra)
        with sdk.responses.stream(**asked, temperature=0, extra_body=extra) as stream:
            events = list(stream)
            final = stream.get_final_response()
    for answer in (whole, final):
        thoughts, message = answer.output
        assert thoughts.type == "reasoning" and thoughts.content is not None
        assert [part.text for part in thoughts.content] == [THOUGHT]
        assert message.type == "message" and answer.output_text == SAID
    told = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert "".join(told) == THOUGHT
