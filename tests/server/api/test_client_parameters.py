"""Parameters of other SDKs: each is honoured, ignored where neutral, or refused by name."""

from __future__ import annotations

import json
from typing import Any, Required, get_args, get_origin

import pytest
from openai.types import completion_create_params as completions
from openai.types import image_generate_params as images
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses
from pydantic import ValidationError
from typing_extensions import get_type_hints

from server.api.routes.chat_completions import ChatBody
from server.api.routes.completions import CompletionBody
from server.api.routes.image_generations import ImageBody
from server.api.routes.responses import ResponsesBody
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of

TALK = [{"role": "user", "content": "Tom"}]
SDK = [
    (CompletionBody, completions.CompletionCreateParamsNonStreaming, {"prompt": "Tom"}),
    (CompletionBody, completions.CompletionCreateParamsStreaming, {"prompt": "Tom"}),
    (ChatBody, chats.CompletionCreateParamsNonStreaming, {"messages": TALK}),
    (ChatBody, chats.CompletionCreateParamsStreaming, {"messages": TALK}),
    (ResponsesBody, responses.ResponseCreateParamsNonStreaming, {"input": "Tom"}),
    (ResponsesBody, responses.ResponseCreateParamsStreaming, {"input": "Tom"}),
    (ImageBody, images.ImageGenerateParamsBase, {"prompt": "7"}),
    (ImageBody, images.ImageGenerateParamsStreaming, {"prompt": "7"}),
]


@pytest.mark.parametrize(("body", "params", "good"), SDK)
def test_every_parameter_of_the_sdk_is_known_and_may_be_null(body, params, good):
    hints = get_type_hints(params, include_extras=True)
    assert len(hints) >= 15
    for name, hint in hints.items():
        assert name in body.model_fields or name in body.neutral, name
        if name not in good:
            body.model_validate({**good, name: None})
        assert get_origin(hint) is not Required or get_args(hint)


VLLM: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "min_tokens": 0,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "stop_token_ids": [],
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "best_of": 1,
    "echo": None,
    "metadata": {"run": "7"},
    "store": False,
    "prompt_cache_key": "k",
    "safety_identifier": "someone",
    "service_tier": "auto",
    "user": "someone",
}


@pytest.mark.parametrize(("body", "good"), [(SDK[0][0], SDK[0][2]), (SDK[2][0], SDK[2][2])])
def test_values_that_change_nothing_are_accepted(body, good):
    body.model_validate({**good, **VLLM})
    body.model_validate({**good, "top_k": 0, "n": 2, "best_of": 2, "service_tier": "default"})
    stream = {"stream": True, "stream_options": {"include_obfuscation": False}}
    body.model_validate({**good, **stream})


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "user": "u"},
        {"stream_options": {"include_usage": True}, "steps": 32},
        {"max_tokens": 64, "temperature": 0.5, "stop": ["</s>"], "steps": 32},
    ],
    ids=["LibreChat", "Open WebUI", "Continue"],
)
def test_fields_that_chat_programs_document_are_accepted(fields):
    ChatBody.model_validate({"model": "stories", "messages": TALK, "stream": True, **fields})


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"reasoning_effort": "none", "verbosity": "medium", "modalities": ["text"]},
        {"add_generation_prompt": True, "chat_template_kwargs": {}, "documents": []},
        {"echo": False, "add_special_tokens": False},
    ],
)
def test_what_says_nothing_in_a_chat_is_accepted(more):
    ChatBody.model_validate({"messages": TALK, **more})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"top_k": 40}, "top_k is not supported: use temperature and top_p"),
        ({"top_k": False}, "top_k is not supported"),
        ({"repetition_penalty": 1.1}, "repetition_penalty is not supported: counts"),
        ({"n": 2, "best_of": 3}, "best_of is not supported: every generated choice"),
        ({"store": True}, "store is not supported: nothing is stored"),
        ({"service_tier": "flex"}, "service_tier is not supported: there is one tier"),
        ({"metadata": "x"}, "metadata is not supported"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"tools": [{"type": "function"}]}, "tools[0].function: "),
        ({"tools": "x", "tool_choice": "none"}, "tools: "),
        ({"messages": None}, "messages: "),
        ({"repitition_penalty": 1}, "did you mean repetition_penalty?"),
    ],
)
def test_what_would_change_something_is_refused_with_the_reason(chatty, more, words):
    body = {"messages": TALK, "max_tokens": 4, "steps": 2, **more}
    response, text = call(chatty, "POST", "/v1/chat/completions", body)
    error = json.loads(text)["error"]
    assert response.status == 400 and words in error["message"]
    assert error["param"] in [*more, "best_of"]


DUMPS = [
    {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "tool_calls": []},
    {"role": "assistant", "content": None, "reasoning_content": None, "function_call": None},
    {"role": "assistant", "reasoning": "", "images": [], "prefix": False, "extra_content": {}},
    {"role": "assistant", "content": "a", "provider_specific_fields": {"refusal": None}},
    {"role": "user", "content": "a", "name": None, "tool_calls": None},
]


@pytest.mark.parametrize("message", DUMPS)
def test_messages_as_other_servers_dump_them_are_taken(chatty, message):
    body = {"messages": [*TALK, message, *TALK], "max_tokens": 4, "steps": 2}
    response, text = call(chatty, "POST", "/v1/chat/completions", body)
    assert response.status == 200, text


def parts(*given: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(given)}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": None}, "messages[1].content: "),
        ({"role": "user", "content": 5}, "messages[1].content: "),
        ({"role": "user"}, "messages[1].content: "),
        ({"role": "tool", "content": "x"}, "messages[1].tool_call_id: tool_call_id is needed"),
        ({"role": "function", "content": "x"}, "messages[1].role: "),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": 1}]}, "messages[1].tool_calls"),
        ({"role": "assistant", "thoughts": "x"}, "messages[1].thoughts: unknown field"),
        ("x", "messages[1]: must be a JSON object"),
        (parts({"type": "image_url", "image_url": {}}), "part 0 is of type 'image_url'"),
        (parts({"type": "text", "text": "a"}, {"type": "file"}), "part 1 is of type 'file'"),
        (parts({"type": "input_audio"}), "messages[1].content: part 0 is of type 'input_audio'"),
        (parts({"type": "text"}), "part 0 has no text"),
        (parts("a"), "part 0 is not an object with a type"),
    ],
)
def test_a_refused_message_is_named_with_its_field(chatty, message, words):
    body = {"messages": [*TALK, message], "max_tokens": 4}
    response, text = call(chatty, "POST", "/v1/chat/completions", body)
    error = json.loads(text)["error"]
    assert response.status == 400 and error["param"] == "messages"
    assert words in error["message"]


def test_text_parts_are_joined_by_line_breaks():
    given = [{"type": "text", "text": "Tom"}, {"type": "text", "text": "had"}]
    body = ChatBody.model_validate({"messages": [{"role": "user", "content": given}]})
    assert body.messages[0].plain() == {"role": "user", "content": "Tom\nhad"}
    with pytest.raises(ValidationError):
        ChatBody.model_validate({"messages": [{"role": "user", "content": given[0]}]})


def texts_of(served, **more) -> tuple[list[str], int]:
    body = {"max_tokens": 24, "steps": 4, "temperature": 1, **more}
    response, text = call(served, "POST", "/v1/completions", body)
    assert response.status == 200, text
    answer = json.loads(text)
    return [choice["text"] for choice in answer["choices"]], answer["seed"]


@pytest.mark.parametrize(("prompts", "n"), [(3, 1), (2, 2), (1, 4)])
def test_choices_without_a_seed_are_independent_and_repeatable(served, prompts, n):
    """24 tokens of a random model: two texts are equal by chance once in 10^20 times."""
    texts, seed = texts_of(served, prompt=["Tom"] * prompts, n=n)
    assert len(set(texts)) == prompts * n
    assert (seed < 0) == (prompts > 1) and abs(seed) < 2**53
    assert texts_of(served, prompt=["Tom"] * prompts, n=n, seed=seed) == (texts, seed)


def test_with_a_seed_each_prompt_gets_what_it_would_get_alone(served):
    alone, _ = texts_of(served, prompt="Tom", n=2, seed=5)
    both, _ = texts_of(served, prompt=["Tom", "Tom"], n=2, seed=5)
    assert both == alone * 2


@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/moderations", "/v1/audio/speech", "/v1/files", "/v1/nowhere", "/v1/"],
)
def test_a_route_that_is_none_says_which_there_are(served, path):
    response, text = call(served, "POST", path, {"model": "tiny"})
    error = json.loads(text)["error"]
    assert response.status == 404 and "POST /v1/chat/completions" in error["message"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/embeddings", "these models give no embeddings"),
        ("/v1//audio/speech/", "read and write text and images only"),
        ("/v1/responses/resp_1", "answers are not kept"),
        ("/v1/chat/completions/chatcmpl-1", "answers are not kept"),
        ("/v1/messages/batches", "no batch jobs"),
        ("/v1/images/edits", "images are made from a class alone"),
    ],
)
def test_a_route_of_other_servers_says_what_is_here_instead(served, path, words):
    response, text = call(served, "POST", path, {"model": "tiny"})
    assert response.status == 404 and words in json.loads(text)["error"]["message"]


@pytest.fixture(scope="module")
def locked(tiny):
    yield from run_server(make_engine(tiny), settings_of(api_keys="sk-a,sk-b"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": "sk-a"}, 200),
        ({"x-api-key": "sk-b"}, 200),
        ({"X-API-Key": "sk-c"}, 401),
        ({"api-key": ""}, 401),
        ({"api-key": "Bearer sk-a"}, 401),
        ({"Authorization": "Bearer sk-c", "api-key": "sk-a"}, 401),
        ({"Authorization": "Bearer sk-a", "api-key": "sk-c"}, 200),
        ({}, 401),
    ],
)
def test_keys_come_in_the_headers_that_clients_use(locked, headers, status):
    response, text = call(locked, "GET", "/v1/models", None, headers)
    assert response.status == status, text


def test_a_key_has_one_rate_in_whatever_header_it_comes(tiny):
    server = run_server(make_engine(tiny), settings_of(api_keys="sk-a", key_rate_per_minute=2))
    one = next(server)
    body = {"prompt": "Tom"}
    statuses = [
        call(one, "POST", "/tokenize", body, {"Content-Type": "application/json", **key})[0].status
        for key in ({"Authorization": "Bearer sk-a"}, {"api-key": "sk-a"}, {"x-api-key": "sk-a"})
    ]
    next(server, None)
    assert statuses == [200, 200, 429]
