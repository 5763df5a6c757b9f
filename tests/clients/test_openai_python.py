"""OpenAI's Python SDK, synchronous: every call that it has for these routes."""

from __future__ import annotations

import json
import math

import openai
import pytest
from pydantic import BaseModel

from tests.support.http import raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of

TALK = [{"role": "user", "content": "Tom had a dog."}]
STEPS = {"steps": 4}
CHAT = {"model": "tiny", "messages": TALK, "max_tokens": 20, "seed": 5, "extra_body": STEPS}
TEXT = {"model": "tiny", "prompt": "Tom had", "max_tokens": 20, "seed": 5, "extra_body": STEPS}
ENDING = {**CHAT, "temperature": 1.0, "logit_bias": {"1": 8}}  # of the end token
BLOCKS = {"sampler": "topk", "mixing_ratio": 0.0, "block_length": 5, **STEPS}


@pytest.fixture
def client(tiny_chat):
    with openai.OpenAI(base_url=f"{tiny_chat.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.mark.parametrize("chosen", [{}, BLOCKS])
def test_the_stream_helper_builds_the_whole_answer(client, chosen):
    """``stream()`` puts chunks together by its own rules: its result is the plain call's."""
    wanted = {**ENDING, "extra_body": {**STEPS, **chosen}}
    whole = client.chat.completions.create(**wanted)
    with client.chat.completions.stream(**wanted, stream_options={"include_usage": True}) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [e.delta for e in events if e.type == "content.delta"]
    (done,) = [e.content for e in events if e.type == "content.done"]
    assert len([d for d in deltas if d]) == (4 if chosen else 1)
    assert "".join(deltas) == done == whole.choices[0].message.content
    assert final.choices[0].message.content == done
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert final.usage.total_tokens == whole.usage.total_tokens


def test_the_stream_helper_takes_several_choices_and_logprobs(client):
    wanted = {**ENDING, "n": 3, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**wanted)
    with client.chat.completions.stream(**wanted) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert any(e.type == "logprobs.content.delta" for e in events)
    assert len({c.message.content for c in whole.choices}) == len(final.choices) == 3
    for got, expected in zip(final.choices, whole.choices, strict=True):
        assert got.message.content == expected.message.content
        told = [(t.token, t.logprob) for t in expected.logprobs.content]
        assert [(t.token, t.logprob) for t in got.logprobs.content] == told


def test_the_stream_helper_calls_a_full_canvas_an_error(client):
    """The SDK's rule for ``finish_reason: length``: the text is in the error."""
    with (
        client.chat.completions.stream(**CHAT) as stream,
        pytest.raises(openai.LengthFinishReasonError) as caught,
    ):
        stream.until_done().get_final_completion()
    whole = client.chat.completions.create(**CHAT).choices[0]
    assert whole.finish_reason == "length"
    assert caught.value.completion.choices[0].message.content == whole.message.content


def test_the_stream_helper_passes_trajectories_by(client):
    """It sees ordinary chunks; the ``diffusion`` object is theirs to read."""
    whole = client.chat.completions.create(**ENDING)
    with client.chat.completions.stream(
        **{**ENDING, "extra_body": {**STEPS, "trajectory": "delta"}}
    ) as stream:
        chunks = [e.chunk for e in stream if e.type == "chunk"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    records = [c.diffusion for c in chunks if "diffusion" in (c.model_extra or {})]
    assert [r["step"] for r in records] == [*range(5), 4]
    canvas = list(records[0]["snapshot"]["ids"])
    for change in (change for r in records[1:] for change in r["changes"]):
        canvas[change["pos"]] = change["id"]
    assert canvas.count(4453) == 0


def test_a_conversation_goes_on_with_the_message_that_came_back(client):
    first = client.chat.completions.create(**CHAT).choices[0].message
    talk = [*TALK, first, {"role": "user", "content": "And then?"}]
    assert client.chat.completions.create(**{**CHAT, "messages": talk}).choices
    talk[1] = first.model_dump()
    assert client.chat.completions.create(**{**CHAT, "messages": talk}).choices


def test_stop_ends_chat_before_the_string(client):
    text = client.chat.completions.create(**CHAT).choices[0].message.content
    stop = text[len(text) // 2 :][:5]
    for given in (stop, [stop, "\x00"]):
        choice = client.chat.completions.create(**CHAT, stop=given).choices[0]
        assert choice.message.content == text[: text.find(stop)]
        assert choice.finish_reason == "stop"
        with client.chat.completions.stream(**CHAT, stop=given) as stream:
            final = stream.get_final_completion().choices[0]
        assert final.message.content == choice.message.content


def test_prompts_of_every_kind(client, tiny_chat):
    tokenizer = tiny_chat.engine.checkpoint.tokenizer
    texts = ["Tom had", "Once upon a time"]
    ids = [tokenizer.encode(text) for text in texts]
    told = [client.completions.create(**{**TEXT, "prompt": t}).choices[0].text for t in texts]
    for prompt in (texts, ids):
        done = client.completions.create(**{**TEXT, "prompt": prompt})
        assert [(c.index, c.text) for c in done.choices] == list(enumerate(told))
    assert client.completions.create(**{**TEXT, "prompt": ids[1]}).choices[0].text == told[1]


def test_choices_of_each_prompt_stand_in_order(client):
    prompts = ["Tom had", "Once upon a time"]
    done = client.completions.create(**{**TEXT, "prompt": prompts}, n=2)
    assert [c.index for c in done.choices] == [0, 1, 2, 3]
    assert len({c.text for c in done.choices}) == 4
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**{**TEXT, "prompt": prompts}, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [c.text for c in done.choices]


def test_echo_suffix_and_logprobs(client):
    echoed = client.completions.create(**TEXT, echo=True)
    plain = client.completions.create(**TEXT)
    assert echoed.choices[0].text == "Tom had" + plain.choices[0].text
    told = client.completions.create(**TEXT, logprobs=2).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs)
    assert all(log_p <= 0 and math.isfinite(log_p) for log_p in told.token_logprobs)
    assert told.text_offset[0] == 0 and told.text_offset == sorted(told.text_offset)
    between = client.completions.create(**TEXT, suffix=" The end.")
    assert between.choices[0].text != plain.choices[0].text
    assert "The end." not in between.choices[0].text
    assert between.usage.prompt_tokens > plain.usage.prompt_tokens


def test_usage_comes_last_and_only_when_asked(client):
    for create, body in (
        (client.completions.create, TEXT),
        (client.chat.completions.create, CHAT),
    ):
        whole = create(**body)
        *chunks, last = create(**body, stream=True, stream_options={"include_usage": True})
        assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens
        assert not any(chunk.usage for chunk in chunks)
        assert not any(chunk.usage for chunk in create(**body, stream=True))


def test_raw_and_streamed_responses(client):
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] and raw.http_response.status_code == 200
    assert raw.parse() == client.chat.completions.create(**CHAT).model_copy(
        update={"id": raw.parse().id, "created": raw.parse().created, "usage": raw.parse().usage}
    )
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    with client.completions.with_streaming_response.create(**TEXT) as response:
        assert json.loads(response.read())["choices"][0]["text"]
    raw = client.completions.with_raw_response.create(**TEXT, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert "".join(c.choices[0].text for c in raw.parse())


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"temperature": 9}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"max_tokens": 9999}, openai.BadRequestError, "max_tokens", "context_length_exceeded"),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty", "invalid_value"),
        ({"extra_body": {"stpes": 3}}, openai.BadRequestError, "stpes", "invalid_value"),
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
    ],
)
def test_errors_are_the_sdks_own(client, change, error, param, code):
    for stream in (False, True):
        with pytest.raises(error) as caught:
            client.chat.completions.create(**{**CHAT, **change}, stream=stream)
        assert (caught.value.param, caught.value.code) == (param, code)
        assert caught.value.type == "invalid_request_error" and caught.value.request_id


def test_what_is_not_there_is_a_404_and_what_is_not_done_a_400(client):
    class Pet(BaseModel):
        name: str

    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="Hi")
    parsed = client.chat.completions.parse(
        model="tiny", messages=TALK, response_format=Pet, max_tokens=40
    )
    assert isinstance(parsed.choices[0].message.parsed, Pet)


def test_a_full_queue_is_a_rate_limit_error_and_the_sdk_tries_again(tiny_chat):
    checkpoint = tiny_chat.engine.checkpoint
    server = run_server(make_engine(checkpoint, max_waiting=1, max_running=1), settings_of())
    served = next(server)
    scheduler = served.engine.scheduler
    long = {"prompt": "Tom had", "max_tokens": 30, "steps": 4000}
    busy = [raw_post(served.port, long)]
    wait_for(lambda: scheduler.running == 1)
    busy.append(raw_post(served.port, long))
    wait_for(lambda: scheduler.waiting == 1)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.completions.create(**TEXT)
        assert caught.value.code == "queue_full"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 600
        for connection in busy:
            connection.close()
        wait_for(lambda: scheduler.running + scheduler.waiting == 0)
        assert sdk.with_options(max_retries=2).completions.create(**TEXT).choices
    next(server, None)


def test_an_error_inside_a_stream_is_raised(tiny_chat):
    server = run_server(make_engine(tiny_chat.engine.checkpoint), settings_of())
    served = next(server)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(**{**CHAT, "extra_body": {"steps": 4000}}, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        served.engine.stop()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "shutting_down"
    next(server, None)


def test_a_client_that_waits_no_longer_frees_the_slot(client, tiny_chat):
    scheduler = tiny_chat.engine.scheduler
    long = {**TEXT, "extra_body": {"steps": 4000}}
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(**long)
    wait_for(lambda: scheduler.running == 0, 1)
    stream = client.completions.create(
        **{**long, "extra_body": {"steps": 4000, "trajectory": "delta"}}, stream=True
    )
    assert next(iter(stream)) and scheduler.running == 1
    stream.close()
    wait_for(lambda: scheduler.running == 0, 1)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "xdlm-serve"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
