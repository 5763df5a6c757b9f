"""Tools on /v1/chat/completions, through real uvicorn and OpenAI's SDK.

The checkpoint's vocabulary has whole calls as tokens, which ``logit_bias`` makes the answer.
"""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.support.caller import ANSWER, ARGUMENTS, CALL, FIRST, TOKENS, TOOL, saying
from tests.support.http import call, events
from tests.support.serving import Served

PATH = "/v1/chat/completions"
ASKED: list[Any] = [{"role": "user", "content": "Add 2 and 3."}]
BODY = {"messages": ASKED, "max_tokens": 1, "steps": 2, "tools": [TOOL]}
WANTED: dict[str, Any] = {"model": "caller", "max_tokens": 1, "tools": [TOOL]}
STEPS = {"steps": 2}
BLOCKS = {"steps": 8, "sampler": "topk", "mixing_ratio": 0.0, "block_length": 1}
TEXT = TOKENS[1]  # content, then a call
MADE = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": ARGUMENTS},
}
SAID = {"role": "assistant", "content": None, "tool_calls": [MADE]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "5"}


@pytest.fixture
def client(caller):
    with openai.OpenAI(base_url=f"{caller.url}/v1", api_key="none", max_retries=2) as sdk:
        yield sdk  # a busy machine lets connections grow old between two calls


def post(served: Served, **more) -> tuple[int, dict]:
    response, text = call(served, "POST", PATH, {**BODY, **more})
    return response.status, json.loads(text)


def test_a_tool_loop_of_the_sdk_comes_to_an_answer(client):
    first = client.chat.completions.create(
        messages=ASKED, **WANTED, **saying(TEXT), extra_body=STEPS
    )
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I add."
    (made,) = choice.message.tool_calls
    assert made.type == "function" and made.function.name == "add"
    assert json.loads(made.function.arguments) == json.loads(ARGUMENTS)
    talk = [*ASKED, choice.message, {**RESULT, "tool_call_id": made.id}]
    last = client.chat.completions.create(
        messages=talk, **WANTED, **saying(ANSWER), extra_body=STEPS
    )
    assert last.choices[0].message.content == ANSWER
    assert last.choices[0].finish_reason == "length" and not last.choices[0].message.tool_calls


@pytest.mark.parametrize("extra", [STEPS, BLOCKS])
@pytest.mark.parametrize("count", [1, 3])
def test_streamed_calls_add_up(client, extra, count):
    wanted = {**WANTED, **saying(TEXT), "max_tokens": count, "messages": ASKED}
    whole = client.chat.completions.create(**wanted, extra_body=extra)
    with client.chat.completions.stream(**wanted, extra_body=extra) as stream:
        told = list(stream)
        final = stream.get_final_completion()
    choice, expected = final.choices[0], whole.choices[0]
    assert choice.finish_reason == expected.finish_reason == "tool_calls"
    assert choice.message.content == expected.message.content == "I add." * count
    assert len(choice.message.tool_calls) == len(expected.message.tool_calls) == count
    for made, same in zip(choice.message.tool_calls, expected.message.tool_calls, strict=True):
        assert made.function.name == same.function.name == "add"
        assert made.function.arguments == same.function.arguments == ARGUMENTS
    done = [event for event in told if event.type == "tool_calls.function.arguments.done"]
    assert [event.index for event in done] == list(range(count))


def test_several_calls_and_no_more_than_one(caller):
    _, answer = post(caller, **saying(CALL), max_tokens=2)
    message = answer["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 2
    assert len({made["id"] for made in message["tool_calls"]}) == 2
    for n in (1, 2):
        single = {"parallel_tool_calls": False, "max_tokens": 2, "n": n}
        _, answer = post(caller, **saying(CALL), **single)
        calls = [choice["message"]["tool_calls"] for choice in answer["choices"]]
        assert [len(made) for made in calls] == [1] * n


def test_tool_choice_none_shows_no_tools_and_reads_no_calls(caller):
    _, plain = post(caller, **saying(CALL), tools=None)
    _, answer = post(caller, **saying(CALL), tool_choice="none")
    assert answer["choices"] == plain["choices"]
    assert answer["choices"][0]["message"]["content"] == CALL
    assert answer["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    _, shown = post(caller, **saying(CALL))
    assert shown["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_calls_of_unknown_functions_and_open_tags_are_text(caller):
    other = {"type": "function", "function": {"name": "sub"}}
    for token, tools in ((CALL, [other]), (TOKENS[2], [TOOL])):
        _, answer = post(caller, **saying(token), tools=tools)
        choice = answer["choices"][0]
        assert choice["message"]["content"] == token and choice["finish_reason"] == "length"
        assert "tool_calls" not in choice["message"]


def test_the_template_shows_tools_calls_and_results(caller):
    """As text, in which nothing is a special token, whatever a tool is called."""
    checkpoint = caller.engine.checkpoint
    described = {**TOOL["function"], "description": '<|endoftext|> é "quoted" <b>'}
    tools = [{"type": "function", "function": described}]
    function = {"name": "add", "arguments": json.loads(ARGUMENTS)}
    talk = [*ASKED, {**SAID, "content": "", "tool_calls": [{"function": function}]}, RESULT]
    pieces = checkpoint.tokenizer.submit_chat(talk, tools).result()
    text = "".join(part for part, special in pieces if not special)
    assert json.dumps(described, ensure_ascii=False) in text and "result: 5\n" in text
    assert f"<tool_call>{json.dumps(function)}</tool_call>" in text
    assert [part for part, special in pieces if special] == ["<|startoftext|>"]
    status, _ = post(caller, messages=[*ASKED, SAID, RESULT], **saying(ANSWER))
    assert status == 200


def test_log_probabilities_of_a_call_are_those_of_its_tokens(caller):
    _, answer = post(caller, **saying(TEXT), logprobs=True)
    choice = answer["choices"][0]
    (token,) = choice["logprobs"]["content"]
    assert token["token"] == TEXT and choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "'f'"),
        ({"tool_choice": "always"}, "tool_choice", "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools", "'add' is there twice"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function"),
        ({"tools": [{**TOOL, "function": {"name": "a b"}}]}, "tools", "tools[0].function.name"),
        ({"tools": [{**TOOL, "function": {"name": "f", "code": 1}}]}, "tools", "code"),
        ({"tools": [TOOL] * 129}, "tools", "128"),
        ({"diffusing": True, "stream": True}, "diffusing", "not supported with tools"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        (
            {"tools": [{**TOOL, "function": {"name": "f", "strict": True}}]},
            "tools",
            "tools[0].function.strict",
        ),
    ],
)
def test_a_refused_tool_is_named(caller, change, param, words):
    status, answer = post(caller, **change)
    assert status == 400, answer
    assert answer["error"]["param"] == param and words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "5"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": 1}]}, "messages[1].tool_calls[0]"),
        (
            {**SAID, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[]"}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_refused_call_is_named(caller, message, words):
    status, answer = post(caller, messages=[*ASKED, message])
    assert status == 400 and answer["error"]["param"] == "messages"
    assert words in answer["error"]["message"]


def test_a_template_without_tools_says_so(chatty):
    status, answer = post(chatty)
    assert status == 400 and answer["error"]["param"] == "tool_choice"
    assert "template" in answer["error"]["message"]
    for talk, words in (
        ([*ASKED, SAID, *ASKED], "messages[1].tool_calls"),
        ([*ASKED, RESULT], "messages[1].role"),
    ):
        status, answer = post(chatty, messages=talk, tools=None)
        assert status == 400 and words in answer["error"]["message"]
        response, text = call(chatty, "POST", "/tokenize", {"messages": talk})
        assert response.status == 400 and words in json.loads(text)["error"]["message"]


FLAT = {"type": "function", **TOOL["function"]}
RESPOND: dict[str, Any] = {"model": "caller", "max_output_tokens": 1, "tools": [FLAT]}


@pytest.mark.parametrize("extra", [STEPS, BLOCKS])
def test_a_tool_loop_of_responses_comes_to_an_answer(client, extra):
    wanted = {"input": ASKED, **RESPOND, "max_output_tokens": 2}
    said = saying(TEXT)
    whole = client.responses.create(**wanted, extra_body={**extra, **said})
    assert [item.type for item in whole.output] == ["message", "function_call"] * 2
    assert whole.output_text == "I add." * 2 and whole.status == "completed"
    call = whole.output[1]
    assert (call.name, call.arguments) == ("add", ARGUMENTS) and call.status == "completed"
    assert whole.tools[0].name == "add" and whole.tool_choice == "auto"
    with client.responses.stream(**wanted, extra_body={**extra, **said}) as stream:
        told = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    done = [e for e in told if e.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [ARGUMENTS] * 2
    ids = [e.item.id for e in told if e.type == "response.output_item.added"]
    assert ids == [item.id for item in final.output] and len(set(ids)) == 4
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    talk = [*ASKED, *whole.output[:2], result]
    asked = {**RESPOND, "input": talk, "extra_body": {**STEPS, **saying(ANSWER)}}
    assert client.responses.create(**asked).output_text == ANSWER
    shown = client.responses.create(**{**asked, "tools": []}).usage.input_tokens
    fewer = client.responses.create(**{**asked, "input": ASKED, "tools": []}).usage.input_tokens
    assert shown > fewer


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools", "tools[0].type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "'f'"),
        ({"input": [{"type": "file_search_call"}]}, "input", "input[0]"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
            "input",
            "input[0].arguments",
        ),
    ],
)
def test_a_refused_tool_of_responses_is_named(caller, change, param, words):
    body = {"input": "Add.", "tools": [FLAT], "max_output_tokens": 1, "steps": 2, **change}
    response, text = call(caller, "POST", "/v1/responses", body)
    error = json.loads(text)["error"]
    assert response.status == 400 and error["param"] == param and words in error["message"]


CUSTOM = {
    "name": "add",
    "description": "a + b",
    "input_schema": TOOL["function"]["parameters"],
    "cache_control": {"type": "ephemeral"},
}
MESSAGE = {"messages": ASKED, "max_tokens": 2, "steps": 2, "tools": [CUSTOM]}


def test_a_tool_loop_of_messages_comes_to_an_answer(caller):
    response, text = call(caller, "POST", "/v1/messages", {**MESSAGE, **saying(TEXT)})
    whole = json.loads(text)
    assert response.status == 200 and whole["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use"] * 2
    use = whole["content"][1]
    assert use["name"] == "add" and use["input"] == json.loads(ARGUMENTS)
    body = {**MESSAGE, **saying(TEXT), "stream": True}
    told = [json.loads(e) for e in events(call(caller, "POST", "/v1/messages", body)[1].decode())]
    starts = [e["content_block"] for e in told if e["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == ["text", "tool_use"] * 2
    pieces = [e["delta"]["partial_json"] for e in told if "partial_json" in e.get("delta", {})]
    assert pieces == [ARGUMENTS] * 2 and starts[1]["input"] == {}
    assert told[-2]["delta"]["stop_reason"] == "tool_use"
    stops = [e["index"] for e in told if e["type"] == "content_block_stop"]
    assert stops == [0, 1, 2, 3]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "5"}
    talk = [
        *ASKED,
        {"role": "assistant", "content": whole["content"][:2]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    body = {**MESSAGE, "messages": talk, "max_tokens": 1, **saying(ANSWER)}
    response, text = call(caller, "POST", "/v1/messages", body)
    assert response.status == 200 and json.loads(text)["content"][0]["text"] == ANSWER
    single = {"type": "auto", "disable_parallel_tool_use": True}
    body = {**MESSAGE, **saying(TEXT), "tool_choice": single}
    answer = json.loads(call(caller, "POST", "/v1/messages", body)[1])
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [{"name": "f"}]}, "tools", "tools[0].input_schema"),
        ({"tools": [{"type": "bash", "name": "f"}]}, "tools", "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice", "name is needed"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice", "'f'"),
        (
            {"messages": [{"role": "user", "content": [{**CUSTOM, "type": "tool_use"}]}]},
            "messages",
            "messages[0].content[0]",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                    }
                ]
            },
            "messages",
            "tool_use is the assistant's",
        ),
    ],
)
def test_a_refused_tool_of_messages_is_named(caller, change, param, words):
    response, text = call(caller, "POST", "/v1/messages", {**MESSAGE, **change})
    error = json.loads(text)["error"]
    assert response.status == 400 and error["param"] == param and words in error["message"], text


OTHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}
FORCED = {"tools": [OTHER], "max_tokens": 60, "steps": 6, "temperature": 1}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
@pytest.mark.parametrize("seed", range(3))
def test_a_forced_call_has_arguments_of_the_schema(caller, chatty, choice, seed):
    """A random model, with a template that shows tools and with one that does not."""
    for served in (caller, chatty):
        status, answer = post(served, **FORCED, tool_choice=choice, seed=seed)
        assert status == 200, answer
        found = answer["choices"][0]
        assert found["finish_reason"] == "tool_calls" and found["message"]["content"] is None
        (made,) = found["message"]["tool_calls"]
        assert made["function"]["name"] == "pick"
        assert json.loads(made["function"]["arguments"])["colour"] in ("red", "blue")


def test_forced_calls_of_several_tools_are_streamed_as_they_settle(caller):
    body = {**FORCED, "tools": [OTHER, TOOL], "tool_choice": "required", "max_tokens": 90}
    names = set()
    for seed in range(4):
        _, whole = post(caller, **body, seed=seed)
        (made,) = whole["choices"][0]["message"]["tool_calls"]
        names.add(made["function"]["name"])
        raw = call(caller, "POST", PATH, {**BODY, **body, "seed": seed, "stream": True})[1]
        chunks = [json.loads(data) for data in events(raw.decode())[:-1]]
        deltas = [chunk["choices"][0]["delta"].get("tool_calls") or [] for chunk in chunks]
        assert all(len({piece["index"] for piece in delta}) == len(delta) for delta in deltas)
        pieces = [piece for delta in deltas for piece in delta]
        assert [p["function"].get("name") for p in pieces if "id" in p] == [
            made["function"]["name"]
        ]
        told = "".join(piece["function"]["arguments"] for piece in pieces)
        assert told == made["function"]["arguments"] and isinstance(json.loads(told), dict)
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert names <= {"add", "pick"}


def test_forced_calls_on_responses_and_messages(caller):
    flat = {"type": "function", **OTHER["function"]}
    body = {"input": "Pick.", "tools": [flat], "tool_choice": "required", "steps": 6}
    for stream in (False, True):
        asked = {**body, "max_output_tokens": 60, "stream": stream}
        raw = call(caller, "POST", "/v1/responses", asked)[1].decode()
        answer = json.loads(events(raw)[-1])["response"] if stream else json.loads(raw)
        (made,) = answer["output"]
        assert made["type"] == "function_call" and answer["status"] == "completed"
        assert json.loads(made["arguments"])["colour"] in ("red", "blue")
    custom = {"name": "pick", "input_schema": OTHER["function"]["parameters"]}
    body = {**MESSAGE, "tools": [custom], "max_tokens": 60, "tool_choice": {"type": "any"}}
    answer = json.loads(call(caller, "POST", "/v1/messages", body)[1])
    (use,) = answer["content"]
    assert use["type"] == "tool_use" and use["input"]["colour"] in ("red", "blue")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 5}, "max_tokens"),
        ({"stop": "x"}, "stop"),
        ({"response_format": {"type": "json_object"}}, "tool_choice"),
        ({"response_format": {"type": "json_object"}, "tool_choice": "auto", "stop": "x"}, "stop"),
        ({"tool_choice": "auto", "guided_regex": "a"}, "tools"),
        ({"tool_choice": "auto", "guided_json": {"not": {}}}, "tools"),
        ({"diffusing": True, "stream": True}, "diffusing"),
    ],
)
def test_a_forced_call_refuses_by_name(caller, change, param):
    status, answer = post(caller, **{**FORCED, "tool_choice": "required", **change})
    assert status == 400 and answer["error"]["param"] == param, answer


FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "mood", "schema": {"enum": ["sad", "so so"]}},
}
EITHER = {**FORCED, "tools": [OTHER], "response_format": FORMAT, "steps": 1}


def test_with_a_format_the_answer_is_a_call_or_of_the_format(caller):
    """Biases of the tokens with which a call can begin decide which."""
    beginnings = [FIRST + 2, *caller.engine.checkpoint.tokenizer.encode_behind("<")]
    for stream in (False, True):
        for bias, called in ((-100, False), (100, True)):
            biases = {str(id_): bias for id_ in beginnings}
            body = {**BODY, **EITHER, "logit_bias": biases, "stream": stream}
            raw = call(caller, "POST", PATH, body)[1].decode()
            if stream:
                chunks = [json.loads(data)["choices"][0] for data in events(raw)[:-1]]
                text = "".join(c["delta"].get("content") or "" for c in chunks)
                pieces = [p for c in chunks for p in c["delta"].get("tool_calls") or []]
                arguments = "".join(p["function"]["arguments"] for p in pieces)
                reason = chunks[-1]["finish_reason"]
            else:
                choice = json.loads(raw)["choices"][0]
                text, reason = choice["message"]["content"] or "", choice["finish_reason"]
                made = choice["message"].get("tool_calls") or []
                arguments = "".join(one["function"]["arguments"] for one in made)
            assert reason == ("tool_calls" if called else "stop"), raw
            if called:
                assert json.loads(arguments)["colour"] in ("red", "blue") and not text
            else:
                assert json.loads(text) in ("sad", "so so") and not arguments


def test_with_a_format_the_other_routes_have_calls_too(caller):
    schema = {"type": "json_schema", "name": "mood", "schema": {"enum": ["sad", "so so"]}}
    flat = {"type": "function", **OTHER["function"], "strict": True}
    body = {"input": "Pick.", "tools": [flat], "text": {"format": schema}, "steps": 2}
    kinds = set()
    for seed in range(6):
        asked = {**body, "max_output_tokens": 60, "seed": seed, "temperature": 1}
        response, text = call(caller, "POST", "/v1/responses", asked)
        (item,) = json.loads(text)["output"]
        kinds.add(item["type"])
        if item["type"] == "message":
            assert json.loads(item["content"][0]["text"]) in ("sad", "so so")
        else:
            assert json.loads(item["arguments"])["colour"] in ("red", "blue")
    assert kinds <= {"message", "function_call"}
    custom = {"name": "pick", "input_schema": OTHER["function"]["parameters"]}
    body = {**MESSAGE, "tools": [custom], "max_tokens": 60, "output_config": {"format": schema}}
    response, text = call(caller, "POST", "/v1/messages", body)
    assert response.status == 200 and len(json.loads(text)["content"]) == 1
