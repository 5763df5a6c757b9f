"""/v1/responses through real uvicorn and OpenAI's SDK."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.responses import Response
from pydantic import TypeAdapter, ValidationError

from server.api.schemas.responses.openai_responses import RESPONSE_EVENTS, ResponseObject
from tests.support.http import call, events, metric, raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of

PATH = "/v1/responses"
STEPS = {"steps": 4, "seed": 5}
BODY = {"input": "Tom had a dog.", "max_output_tokens": 20, **STEPS}
BLOCKS = {"sampler": "topk", "mixing_ratio": 0.0, "block_length": 5}
CANCELLED = 'xdlm_request_failure_total{code="cancelled"}'
ASKED = {"model": "tiny", "input": "Tom had a dog.", "max_output_tokens": 20}
ENDS = {"logit_bias": {"1": 8}}  # of the end token


@pytest.fixture
def client(chatty):
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="none", max_retries=2) as sdk:
        yield sdk  # a busy machine lets connections grow old between two calls


def chat_text(served, **more) -> tuple[str, str, dict]:
    """The same by /v1/chat/completions: text, reason and usage."""
    body = {"messages": [{"role": "user", "content": BODY["input"]}], "max_tokens": 20, **STEPS}
    _, text = call(served, "POST", "/v1/chat/completions", {**body, **more})
    answer = json.loads(text)
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], answer["usage"]


def test_a_response_has_the_text_and_usage_of_the_chat(client, chatty):
    answer = client.responses.create(**ASKED, extra_body=STEPS, metadata={"run": "7"}, user="me")
    text, reason, usage = chat_text(chatty)
    assert answer.output_text == text and answer.id.startswith("resp_")
    assert (answer.status, reason) == ("incomplete", "length")
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.input_tokens == usage["prompt_tokens"]
    assert answer.usage.output_tokens == usage["completion_tokens"] == 20
    assert answer.metadata == {"run": "7"} and answer.user == "me" and answer.store is False
    assert answer.output[0].status == "incomplete" and answer.output[0].role == "assistant"


def test_a_text_that_ends_is_completed(client):
    answer = client.responses.create(**ASKED, temperature=1.0, extra_body={**STEPS, **ENDS})
    assert answer.status == answer.output[0].status == "completed" and answer.error is None
    assert answer.completed_at >= answer.created_at and answer.incomplete_details is None
    assert answer.usage.output_tokens < 20
    with client.responses.stream(**ASKED, temperature=1.0, extra_body={**STEPS, **ENDS}) as stream:
        assert stream.get_final_response().output_text == answer.output_text


@pytest.mark.parametrize("more", [{}, BLOCKS])
def test_the_stream_helper_builds_the_whole_response(client, more):
    whole = client.responses.create(**ASKED, extra_body={**STEPS, **more})
    with client.responses.stream(**ASKED, extra_body={**STEPS, **more}) as stream:
        told = list(stream)
    names = [event.type for event in told]
    deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
    assert names == [
        *("response.created", "response.in_progress", "response.output_item.added"),
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        *("response.output_text.done", "response.content_part.done"),
        *("response.output_item.done", "response.incomplete"),
    ]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert "".join(deltas) == whole.output_text == told[-1].response.output_text
    assert len(deltas) > 1 if more else len(deltas) == 1
    assert told[-1].response.usage.total_tokens == whole.usage.total_tokens
    assert len({event.response.id for event in told if hasattr(event, "response")}) == 1


def test_answers_and_events_are_of_their_types(chatty):
    """Ours, which the OpenAPI document shows, and the SDK's, checked strictly."""
    whole = json.loads(call(chatty, "POST", PATH, BODY)[1])
    TypeAdapter(ResponseObject).validate_python(whole, strict=True)
    Response.model_validate_json(json.dumps(whole), strict=True)
    with pytest.raises(ValidationError):
        TypeAdapter(ResponseObject).validate_python({**whole, "more": 1})
    response, raw = call(chatty, "POST", PATH, {**BODY, "stream": True})
    assert response.status == 200
    types = {name: kind for kind in RESPONSE_EVENTS for name in names_of(kind)}
    lines = [line for line in raw.decode().splitlines() if line.startswith("event: ")]
    told = [json.loads(data) for data in events(raw.decode())]
    assert lines == [f"event: {event['type']}" for event in told]
    for event in told:
        TypeAdapter(types[event["type"]]).validate_python(event, strict=True)


def names_of(kind) -> list[str]:
    said = TypeAdapter(kind).json_schema()["properties"]["type"]
    return said.get("enum") or [said["const"]]


def test_a_list_of_messages_is_a_conversation(client, chatty):
    """The template of stories opens with the last user message, whatever came before."""
    first = client.responses.create(**ASKED, extra_body=STEPS)
    talk = [
        {"role": "developer", "content": "You tell stories."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        *first.output,
        {"role": "user", "content": "Tom had a dog."},
    ]
    again = client.responses.create(**{**ASKED, "input": talk}, extra_body=STEPS, instructions="x")
    assert again.output_text == first.output_text and again.instructions == "x"
    dumped = [*talk[:2], *(item.model_dump() for item in first.output), talk[-1]]
    assert client.responses.create(**{**ASKED, "input": dumped}, extra_body=STEPS).output_text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": []}, "input", "input"),
        ({"input": None}, "input", "input"),
        ({"input": 5}, "input", "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input", "input[0].role"),
        ({"input": [{"type": "file_search_call"}]}, "input", "input[0]: type must be one of"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "part 0"),
        ({"input": [{"role": "user", "content": "x", "mood": 1}]}, "input", "input[0].mood"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens must be at least 1"),
        ({"max_output_tokens": 9999}, "max_output_tokens", "max_output_tokens 9999"),
        ({"input": "Tom had a dog. " * 60}, "input", "256"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"store": True}, "store", "nothing is stored"),
        ({"background": True}, "background", "nothing is stored"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools[0].type"),
        ({"text": {"format": {"type": "xml"}}}, "text", "text.format.type"),
        ({"truncation": "auto"}, "truncation", "a prompt is never cut"),
        ({"include": ["message.output_text.logprobs"]}, "include", "include is not supported"),
        ({"metadata": {"a": 1}}, "metadata", "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "16"),
        ({"max_tokens": 5}, "max_tokens", "use max_output_tokens"),
        ({"messages": []}, "messages", "use input"),
        ({"n": 2}, "n", "one answer"),
        ({"temperature": 9}, "temperature", "temperature"),
        ({"trajectory": "delta"}, "trajectory", "/v1/chat/completions has it"),
    ],
)
def test_a_refused_field_is_named(chatty, change, param, words):
    response, text = call(chatty, "POST", PATH, {**BODY, **change})
    error = json.loads(text)["error"]
    assert response.status == 400, text
    assert error["param"] == param and words in error["message"]


def test_values_that_change_nothing_are_accepted(chatty):
    neutral = {"store": False, "background": False, "truncation": "disabled", "tools": []}
    neutral |= {"tool_choice": "auto", "parallel_tool_calls": True, "include": []}
    neutral |= {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "top_logprobs": 0}
    neutral |= {"reasoning": {"effort": None}, "service_tier": "auto", "stream_options": None}
    response, text = call(chatty, "POST", PATH, {**BODY, **neutral})
    assert response.status == 200, text


def test_errors_before_a_stream_are_the_sdks_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, stream=True, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(**{**ASKED, "model": "gpt-4"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as kept:
        client.responses.retrieve("resp_1")
    assert "answers are not kept" in kept.value.message


def test_a_stream_that_fails_ends_with_response_failed(tiny_chatty):
    server = run_server(make_engine(tiny_chatty), settings_of())
    served = next(server)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        stream = sdk.responses.create(**ASKED, stream=True, extra_body={"steps": 4000})
        assert next(iter(stream)).type == "response.created"
        served.engine.stop()
        last = list(stream)[-1]
    assert last.type == "response.failed" and last.response.status == "failed"
    error = last.response.error
    assert error is not None and (error.code, error.type) == ("server_error", "shutting_down")
    next(server, None)


def test_a_client_that_hangs_up_frees_the_slot(chatty):
    scheduler, before = chatty.engine.scheduler, metric(chatty, CANCELLED)
    for stream in (False, True):
        body = {**BODY, "steps": 4000, "stream": stream}
        connection = raw_post(chatty.port, body, path=PATH)
        wait_for(lambda: scheduler.running == 1)
        connection.close()
        wait_for(lambda: scheduler.running == 0)
    assert metric(chatty, CANCELLED) - before == 2
