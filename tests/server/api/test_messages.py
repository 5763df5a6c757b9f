"""/v1/messages through real uvicorn, in Anthropic's shapes. Its SDK is run in tests/clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from server.api.schemas.responses.anthropic_messages import MESSAGE_EVENTS, AnthropicMessage
from server.http.anthropic import AnthropicError
from tests.support.http import call, events, metric, raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of

PATH = "/v1/messages"
TALK = [{"role": "user", "content": "Tom had a dog."}]
STEPS = {"steps": 4, "seed": 5}
BODY: dict[str, Any] = {"messages": TALK, "max_tokens": 20, **STEPS}
BLOCKS = {"sampler": "topk", "mixing_ratio": 0.0, "block_length": 5}
JSON = {"Content-Type": "application/json"}
CANCELLED = 'xdlm_request_failure_total{code="cancelled"}'


def post(served, headers=None, **more) -> tuple[int, dict]:
    response, text = call(served, "POST", PATH, {**BODY, **more}, {**JSON, **(headers or {})})
    answer = json.loads(text)
    kind = AnthropicMessage if response.status == 200 else AnthropicError
    TypeAdapter(kind).validate_python(answer, strict=True)
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python({**answer, "more": 1})
    return response.status, answer


def chat(served, **more) -> dict:
    body = {"messages": TALK, "max_tokens": 20, **STEPS, **more}
    return json.loads(call(served, "POST", "/v1/chat/completions", body)[1])


def test_a_message_has_the_text_and_usage_of_the_chat(chatty):
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    status, answer = post(chatty, headers)
    told = chat(chatty)
    assert status == 200 and answer["id"].startswith("msg_")
    assert answer["content"][0]["text"] == told["choices"][0]["message"]["content"]
    assert answer["stop_reason"] == "max_tokens" and answer["stop_sequence"] is None
    assert answer["usage"]["input_tokens"] == told["usage"]["prompt_tokens"]
    assert answer["usage"]["output_tokens"] == told["usage"]["completion_tokens"]


def test_a_stop_sequence_is_told(chatty):
    text = post(chatty)[1]["content"][0]["text"]
    stop = text[len(text) // 2 :][:4]
    _, answer = post(chatty, stop_sequences=["\x00", stop + "\x00", stop])
    assert answer["content"][0]["text"] == text[: text.find(stop)]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", stop)


def test_a_text_that_ends_is_the_end_of_the_turn(chatty):
    _, answer = post(chatty, temperature=1.0, logit_bias={"1": 8})
    assert answer["stop_reason"] == "end_turn" and answer["usage"]["output_tokens"] < 20


@pytest.mark.parametrize("more", [{}, BLOCKS])
def test_the_events_of_a_stream_make_the_message(chatty, more):
    _, whole = post(chatty, **more)
    response, raw = call(chatty, "POST", PATH, {**BODY, **more, "stream": True})
    assert response.status == 200
    told = [json.loads(data) for data in events(raw.decode())]
    lines = [line for line in raw.decode().splitlines() if line.startswith("event: ")]
    assert lines == [f"event: {event['type']}" for event in told]
    types = {TypeAdapter(k).json_schema()["properties"]["type"]["const"]: k for k in MESSAGE_EVENTS}
    for event in told:
        TypeAdapter(types[event["type"]]).validate_python(event, strict=True)
    start, opened, *deltas, closed, last, end = told
    assert start["type"] == "message_start" and start["message"]["content"] == []
    assert opened["type"] == "content_block_start" and closed["type"] == "content_block_stop"
    text = "".join(delta["delta"]["text"] for delta in deltas)
    assert text == whole["content"][0]["text"]
    assert len(deltas) > 1 if more else len(deltas) == 1
    assert last["delta"] == {n: whole[n] for n in ("stop_reason", "stop_sequence")}
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert end == {"type": "message_stop"}


def test_system_and_parts_are_read(chatty):
    """The template of stories opens with the last user message, whatever came before."""
    part = {"type": "text", "text": "Tom had a dog.", "cache_control": {"type": "ephemeral"}}
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Ho", "citations": None}]},
        {"role": "user", "content": [part]},
    ]
    for system in ("You tell stories.", [{"type": "text", "text": "You tell stories."}]):
        status, answer = post(chatty, messages=talk, system=system)
        assert status == 200 and answer["content"] == post(chatty)[1]["content"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": []}, "messages", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages", "part 0"),
        ({"messages": [*TALK, {"role": "assistant", "content": "A"}]}, "messages", "continued"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 9999}, "max_tokens", "max_tokens 9999"),
        ({"stop_sequences": [""]}, "stop_sequences", "stop_sequences"),
        ({"stop_sequences": "x"}, "stop_sequences", "stop_sequences"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences", "17"),
        ({"stop": "x"}, "stop", "use stop_sequences"),
        ({"top_k": 40}, "top_k", "use temperature and top_p"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking", "reasoning"),
        ({"tools": [{"name": "f"}]}, "tools", "tools[0].input_schema"),
        ({"temperature": -1}, "temperature", "temperature"),
        ({"stpes": 4}, "stpes", "did you mean steps?"),
    ],
)
def test_a_refused_field_is_named(chatty, change, param, words):
    status, answer = post(chatty, **change)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param and words in answer["error"]["message"]


def test_values_that_change_nothing_are_accepted(chatty):
    neutral = {"metadata": {"user_id": "me"}, "service_tier": "auto", "top_k": 0}
    neutral |= {"thinking": {"type": "disabled"}, "tool_choice": {"type": "none"}}
    tool = {"name": "f", "input_schema": {"type": "object"}}
    assert post(chatty, **neutral, tools=[tool])[0] == 200  # no call is asked for
    assert post(chatty, tools=[], tool_choice={"type": "auto"})[0] == 200


def test_errors_of_every_kind_have_the_shape(tiny_chatty):
    limits = {"api_keys": "sk-a", "key_rate_per_minute": 3, "max_body_mb": 1}
    server = run_server(make_engine(tiny_chatty), settings_of(**limits))
    served = next(server)
    key = {"x-api-key": "sk-a"}
    status, answer = post(served)
    assert status == 401 and answer["error"]["type"] == "authentication_error"
    assert post(served, key)[0] == 200
    status, answer = post(served, key, model="claude")
    assert status == 404 and answer["error"]["type"] == "not_found_error"
    assert answer["error"]["code"] == "model_not_found" and answer["request_id"]
    status, answer = post(served, key, system="x" * (1 << 20))
    assert status == 413 and answer["error"]["type"] == "request_too_large"
    status, answer = post(served, key)
    assert status == 429 and answer["error"]["type"] == "rate_limit_error"
    response, text = call(served, "GET", PATH, None, key)
    assert response.status == 405 and json.loads(text)["type"] == "error"
    path = f"/{PATH}/count_tokens"
    response, text = call(served, "GET", path, None, key)
    error = json.loads(text)["error"]
    assert response.status == 404 and "POST /tokenize" in error["message"]
    next(server, None)


def test_a_stream_that_fails_ends_with_an_error_event(tiny_chatty):
    server = run_server(make_engine(tiny_chatty), settings_of())
    served = next(server)
    connection = raw_post(served.port, {**BODY, "steps": 4000, "stream": True}, path=PATH)
    wait_for(lambda: served.engine.scheduler.running == 1)
    served.engine.stop()
    raw = b""
    while b"event: error" not in raw or not raw.endswith(b"0\r\n\r\n"):
        piece = connection.recv(4096)
        assert piece, raw
        raw += piece
    connection.close()
    data = raw.partition(b"event: error\r\ndata: ")[2] or raw.partition(b"event: error\ndata: ")[2]
    error = TypeAdapter(AnthropicError).validate_json(data.partition(b"\n")[0], strict=True)
    assert error["error"]["code"] == "shutting_down" and error["error"]["type"] == "api_error"
    next(server, None)


def test_a_client_that_hangs_up_frees_the_slot(chatty):
    scheduler, before = chatty.engine.scheduler, metric(chatty, CANCELLED)
    for stream in (False, True):
        connection = raw_post(chatty.port, {**BODY, "steps": 4000, "stream": stream}, path=PATH)
        wait_for(lambda: scheduler.running == 1)
        connection.close()
        wait_for(lambda: scheduler.running == 0)
    assert metric(chatty, CANCELLED) - before == 2
