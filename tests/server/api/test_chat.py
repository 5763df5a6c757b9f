"""Chat, prompts of token ids and infilling, through real uvicorn and the OpenAI SDK."""

from __future__ import annotations

import json

import openai
import pytest

from server.engine.request_params import ANY_KIND
from tests.support.effort import count
from tests.support.http import BODY, call, post, raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of

TALK = [
    {"role": "system", "content": "You tell stories."},
    {"role": "user", "content": [{"type": "text", "text": "Once upon "}]},
    {"role": "assistant", "content": "a time"},
    {"role": "user", "content": "Tom had a dog."},
]


@pytest.fixture
def client(chatty):
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_chat_says_what_the_completion_says(client):
    """The template of stories opens with the last user message."""
    settings = {"seed": 5, "max_tokens": 30, "extra_body": {"steps": 6}}
    told = client.completions.create(model="tiny", prompt="Tom had a dog.", **settings)
    done = client.chat.completions.create(model="tiny", messages=TALK, **settings)
    assert done.object == "chat.completion" and done.id.startswith("chatcmpl-")
    message = done.choices[0].message
    assert message.role == "assistant" and message.content == told.choices[0].text
    assert done.usage.prompt_tokens == told.usage.prompt_tokens
    assert done.choices[0].finish_reason == told.choices[0].finish_reason


@pytest.mark.parametrize("sampler", ANY_KIND.samplers)
def test_chat_stream_adds_up(client, sampler):
    settings = {"model": "tiny", "messages": TALK, "seed": 5, "max_completion_tokens": 30}
    extra = {"steps": 6, "sampler": sampler}
    whole = client.chat.completions.create(**settings, extra_body=extra)
    stream = client.chat.completions.create(
        **settings,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=extra | {"trajectory": "delta"},
    )
    chunks = list(stream)
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    steps = [c.diffusion for c in chunks if getattr(c, "diffusion", None)]
    assert steps[0]["snapshot"] and all(c["masked"] >= 0 for c in steps)


def chat(served, **body):
    response, text = call(served, "POST", "/v1/chat/completions", body)
    return response.status, json.loads(text)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_chat_names_what_it_refuses(chatty, change, param):
    status, answer = chat(chatty, **{"messages": TALK, "max_tokens": 8, **change})
    assert status == 400 and answer["error"]["param"] == param


def test_no_template_is_said(served):
    status, answer = chat(served, messages=TALK)
    assert status == 400 and "no chat template" in answer["error"]["message"]


def test_ids_as_prompt_mean_the_text(served, tiny):
    ids = tiny.tokenizer.encode(BODY["prompt"])
    told = post(served, **BODY)[1]["choices"]
    for prompt in (ids, [ids], [BODY["prompt"]]):
        assert post(served, **{**BODY, "prompt": prompt})[1]["choices"] == told


def test_the_mask_in_a_prompt(served, tiny):
    """As text it is text and comes back unchanged; as an id it must be meant."""
    mask = tiny.info.mask_id
    literal = tiny.tokenizer.piece(mask)
    ids = tiny.tokenizer.encode(f"Tom {literal} ran.")
    assert mask not in ids and tiny.tokenizer.decode(ids) == f"Tom {literal} ran."
    for prompt in ([0, mask, 300], [0, 10**9], [-1]):
        status, answer = post(served, **{**BODY, "prompt": prompt})
        assert status == 400 and answer["error"]["param"] == "prompt"
    status, answer = post(served, **{**BODY, "infill": True})
    assert status == 400 and answer["error"]["param"] == "infill"


@pytest.mark.parametrize("sampler", ANY_KIND.samplers)
def test_infilling_keeps_what_is_given(served, tiny, sampler):
    info = tiny.info
    given = tiny.tokenizer.encode("Tom had a big red dog and a cat")
    holes = [3, 4, 7]
    ids = [info.mask_id if i in holes else id_ for i, id_ in enumerate(given)]
    body = {"prompt": ids, "infill": True, "steps": 5, "seed": 3, "sampler": sampler}
    status, answer = post(served, **body)
    assert status == 200
    usage = answer["usage"]
    assert usage["diffusion"]["positions"] == 3 and usage["prompt_tokens"] == len(ids)
    _, text = call(
        served,
        "POST",
        "/v1/completions",
        {**body, "stream": True, "trajectory": "delta", "stream_options": {"include_usage": True}},
    )
    records = [json.loads(line[6:]) for line in text.decode().splitlines() if line[6:7] == "{"]
    changed = {c["pos"] for r in records if "diffusion" in r for c in r["diffusion"]["changes"]}
    assert changed == set(holes)
    pieces = "".join(r["choices"][0]["text"] for r in records if r["choices"])
    assert pieces == answer["choices"][0]["text"]
    # what is given between the holes is part of the text
    assert tiny.tokenizer.piece(given[5]) in pieces
    assert post(served, **{**body, "max_tokens": 6})[1]["usage"]["diffusion"]["positions"] == 9


@pytest.mark.parametrize("sampler", ANY_KIND.samplers)
def test_stop_strings(served, sampler):
    """The text ends before the first of them, streamed or not; nothing of it slips out before."""
    body = {**BODY, "max_tokens": 60, "sampler": sampler, "mixing_ratio": 0.0}
    body["steps"] = count(10, 30)
    if sampler == "threshold":
        del body["mixing_ratio"]
    whole = post(served, **body)[1]
    text = whole["choices"][0]["text"]
    middle = len(text) // 2
    stops = [text[middle : middle + 5], "\x00nowhere", text[middle + 2 : middle + 9]]
    cut = min(text.find(stop) for stop in stops if stop in text)
    _, answer = post(served, **body, stop=stops)
    choice = answer["choices"][0]
    assert choice["text"] == text[:cut] and choice["finish_reason"] == "stop"
    assert 0 < answer["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
    _, sse = call(served, "POST", "/v1/completions", {**body, "stop": stops, "stream": True})
    records = [json.loads(line[6:]) for line in sse.decode().splitlines() if line[6:7] == "{"]
    assert "".join(r["choices"][0]["text"] for r in records) == text[:cut]
    assert [r["choices"][0]["finish_reason"] for r in records][-1] == "stop"
    assert post(served, **body, stop="\x00nowhere")[1]["choices"] == whole["choices"]


def test_a_settled_stop_string_saves_the_later_blocks(served):
    body = {**BODY, "max_tokens": 64, "steps": 64, "sampler": "topk", "mixing_ratio": 0.0}
    body["block_length"] = 8
    text = post(served, **body)[1]["choices"][0]["text"]
    answer = post(served, **body, stop=text[5:9])[1]
    assert answer["choices"][0]["text"] == text[: text.find(text[5:9])]
    assert answer["usage"]["diffusion"]["steps"] < 64


@pytest.mark.parametrize("sampler", ANY_KIND.samplers)
def test_a_suffix_stays_behind_the_text(served, tiny, sampler):
    body = {**BODY, "sampler": sampler, "suffix": " The end.\nBye", "seed": 2}
    status, answer = post(served, **body)
    assert status == 200
    behind = tiny.tokenizer.encode_behind(body["suffix"])
    prompt = tiny.tokenizer.encode(BODY["prompt"])
    assert tiny.tokenizer.decode([*prompt, *behind]) == BODY["prompt"] + body["suffix"]
    assert answer["usage"]["prompt_tokens"] == len(prompt) + len(behind)
    _, sse = call(
        served, "POST", "/v1/completions", {**body, "stream": True, "trajectory": "delta"}
    )
    records = [json.loads(line[6:]) for line in sse.decode().splitlines() if line[6:7] == "{"]
    assert "".join(r["choices"][0]["text"] for r in records) == answer["choices"][0]["text"]
    first = next(r["diffusion"]["snapshot"]["ids"] for r in records if "diffusion" in r)
    assert first[: len(prompt)] == prompt and first[-len(behind) :] == behind
    spots = range(len(prompt), len(prompt) + 30)
    assert {c["pos"] for r in records for c in r.get("diffusion", {}).get("changes", [])} <= {
        *spots
    }
    assert post(served, **{**body, "max_tokens": 251 - len(behind)})[0] == 200
    status, refused = post(served, **{**body, "max_tokens": 252 - len(behind)})
    assert status == 400 and refused["error"]["param"] == "max_tokens"


def test_n_choices_of_several_prompts(client):
    """Index = prompt * n + choice. The first choice is what the prompt alone gives; others differ,
    the same each time.
    """
    settings = {"model": "tiny", "max_tokens": 20, "seed": 9, "extra_body": {"steps": 4}}
    prompts = ["Once upon", "Tom had a dog"]
    both = client.completions.create(prompt=prompts, n=3, **settings)
    assert [c.index for c in both.choices] == [0, 1, 2, 3, 4, 5]
    texts = [c.text for c in both.choices]
    assert len(set(texts)) == 6
    for i, prompt in enumerate(prompts):
        alone = client.completions.create(prompt=prompt, **settings)
        assert alone.choices[0].text == texts[3 * i]
        three = client.completions.create(prompt=prompt, n=3, **settings)
        assert [c.text for c in three.choices] == texts[3 * i : 3 * i + 3]
        assert three.usage.prompt_tokens == alone.usage.prompt_tokens
    assert both.usage.diffusion["positions"] == 120
    for extra in ({}, {"trajectory": "delta"}):
        stream = client.completions.create(
            prompt=prompts,
            n=3,
            stream=True,
            stream_options={"include_usage": True},
            **{**settings, "extra_body": settings["extra_body"] | extra},
        )
        streamed, ends, usage = [""] * 6, [0] * 6, None
        for chunk in stream:
            for choice in chunk.choices:
                assert not ends[choice.index]
                streamed[choice.index] += choice.text
                ends[choice.index] += choice.finish_reason is not None
            usage = chunk.usage or usage
        assert streamed == texts and ends == [1] * 6
        assert usage is not None and usage.total_tokens == both.usage.total_tokens


def test_n_in_chat(client):
    settings = {"model": "tiny", "messages": TALK, "max_tokens": 20, "seed": 9, "n": 2}
    done = client.chat.completions.create(**settings)
    assert done.choices[0].message.content != done.choices[1].message.content
    roles = [0, 0]
    texts = ["", ""]
    for chunk in client.chat.completions.create(**settings, stream=True):
        choice = chunk.choices[0]
        roles[choice.index] += choice.delta.role == "assistant"
        texts[choice.index] += choice.delta.content or ""
    assert roles == [1, 1] and texts == [c.message.content for c in done.choices]


def test_choices_are_queued_all_or_none(tiny):
    """A queue with room for some takes none; a hang-up frees all."""
    server = run_server(make_engine(tiny, max_running=1, max_waiting=4), settings_of())
    one = next(server)
    scheduler = one.engine.scheduler
    body = {**BODY, "max_tokens": 250, "steps": 4000, "n": 3}
    connection = raw_post(one.port, body)
    wait_for(lambda: scheduler.running == 1 and scheduler.waiting == 2)
    assert post(one, **body)[0] == 429
    assert scheduler.waiting == 2
    assert post(one, **{**body, "n": 5})[0] == 400  # never has room
    connection.close()
    wait_for(lambda: scheduler.running == scheduler.waiting == 0)
    next(server, None)


def test_text_to_ids_and_back(chatty):
    tokenizer = chatty.engine.checkpoint.tokenizer

    def ask(path, **body):
        response, text = call(chatty, "POST", path, body)
        return response.status, json.loads(text)

    for text in ("Tom had a dog.", "", "é 😀 <|mdm_mask|>", "  two\n\nlines "):
        status, found = ask("/tokenize", prompt=text, return_token_strs=True)
        assert status == 200 and found["tokens"] == tokenizer.encode(text)
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert found["max_model_len"] == 256
        assert ask("/detokenize", tokens=found["tokens"]) == (200, {"prompt": text})
        bare = ask("/tokenize", prompt=text, add_special_tokens=False)[1]["tokens"]
        assert found["tokens"] == [0, *bare]
    talk = ask("/tokenize", messages=TALK)[1]["tokens"]
    assert talk == ask("/tokenize", prompt="Tom had a dog.")[1]["tokens"]
    for path, body, param in (
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": TALK}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"prompt": "x", "promt": 1}, "promt"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [4454]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, "model"),
    ):
        status, answer = ask(path, **body)
        assert status == (404 if param == "model" else 400) and answer["error"]["param"] == param
