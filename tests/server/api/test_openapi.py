"""The specification says what the routes do."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from markupsafe import escape
from pydantic import TypeAdapter, ValidationError

from sampler.registry import DEFAULT_SAMPLER, READERS, SAMPLERS
from server.api.app import create_app
from server.api.openapi import document
from server.api.schemas.responses.text import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)
from server.http.json_body import JsonRoute
from tests.support.effort import THOROUGH
from tests.support.http import BODY, call, events
from tests.support.serving import make_engine, run_server, settings_of

LIMITS = {"max_steps": 40, "max_choices": 5, "max_stops": 7, "max_stop_length": 9, "docs": True}
NEIGHBOURS = {"minimum": -1, "maximum": 1, "exclusiveMinimum": 0, "exclusiveMaximum": 0}


@pytest.fixture(scope="module")
def documented(tiny):
    yield from run_server(make_engine(tiny), settings_of(**LIMITS))


@pytest.fixture(scope="module")
def app(tiny):
    return create_app([make_engine(tiny)], settings_of(**LIMITS))


@pytest.fixture(scope="module")
def spec(app):
    return document(app, app.state.xdlm)


def bodies(spec) -> dict[str, dict]:
    return {n: s for n, s in spec["components"]["schemas"].items() if n.endswith("Body")}


def test_it_is_served_only_when_asked_for(documented, served, spec):
    response, text = call(documented, "GET", "/openapi.json")
    assert response.status == 200 and json.loads(text) == json.loads(json.dumps(spec))
    for path in ("/openapi.json", "/docs"):
        assert call(served, "GET", path)[0].status == 404


def test_the_page_loads_nothing(documented, spec):
    response, text = call(documented, "GET", "/docs")
    page = text.decode()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "<script" not in page and not re.findall(r"(?:src|href)=\"(?!#|/openapi\.json)", page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.endswith(f"style-src 'sha256-{digest}'") and "url(" not in style
    for path in spec["paths"]:
        assert path in page
    for fields in bodies(spec).values():
        for name, field in fields["properties"].items():
            assert f"<code>{name}</code>" in page and str(escape(field["description"])) in page


def test_every_route_is_described(app, spec):
    originals = [context.original_route for context in iter_route_contexts(app.routes)]
    routes = [route for route in originals if isinstance(route, APIRoute)]
    assert len([route for route in routes if route.include_in_schema]) >= 10
    for route in routes:
        assert (route.path_format in spec["paths"]) == route.include_in_schema
        if route.body_field is not None:
            assert isinstance(route, JsonRoute), route.path
    tags = {tag["name"] for tag in spec["tags"]}
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], path
            assert operation["tags"] and set(operation["tags"]) <= tags
            said = operation["responses"]
            assert "422" not in said and said["200"]["description"]
            content = said["200"]["content"]
            assert {"application/json", "text/plain", "image/png"} & content.keys()
            for status, response in said.items():
                if status not in ("200", "204"):
                    error = "AnthropicError" if path == "/v1/messages" else "Error"
                    assert response["content"]["application/json"]["schema"] == {
                        "$ref": f"#/components/schemas/{error}"
                    }
            if method == "post":
                assert {"400", "401", "404", "413", "500"} <= set(said)


def test_every_field_has_words_and_an_example(spec):
    assert len(bodies(spec)) >= 4
    names = ["Message", "TextPart", "StreamOptions", "TextSettings", "StreamSettings"]
    names += ["InputMessage", "InputTextPart", "Turn", "BlockPart"]
    names += ["Tool", "Function", "NamedChoice", "NamedFunction", "ToolCall", "CalledFunction"]
    names += ["DecisionMessage", "DecisionPart", "Predicate", "ChoiceQuestion", "ScoreQuestion"]
    names += ["Choice", "Level", "InputCall", "InputResult", "FlatTool", "FlatChoice"]
    names += ["UsePart", "ResultPart", "CustomTool", "Choosing", "OutputConfig", "FlatSchema"]
    names += ["PlainFormat"]
    parts = {n: spec["components"]["schemas"][n] for n in names}
    for body, schema in {**bodies(spec), **parts}.items():
        assert schema["additionalProperties"] is False
        for name, field in schema["properties"].items():
            assert field.get("description"), f"{body}.{name}"
            assert len(field.get("examples", [])) == 1, f"{body}.{name}"


def test_the_settings_are_the_bounds(spec):
    fields = spec["components"]["schemas"]["CompletionBody"]["properties"]
    assert fields["steps"]["maximum"] == 40 and fields["n"]["maximum"] == 5
    assert fields["stop"]["maxItems"] == 7 and fields["stop"]["maxLength"] == 9
    (texts,) = [kind for kind in fields["stop"]["anyOf"] if kind["type"] == "array"]
    assert texts["items"]["maxLength"] == 9
    assert fields["max_tokens"]["maximum"] == 256
    assert fields["best_of"]["enum"] == [1, None]
    assert fields["class_label"]["enum"] == [None]


def bounded(spec) -> list[tuple[str, str, float]]:
    """Fields of completions with a value that each of their bounds forbids."""
    found = []
    for name, field in spec["components"]["schemas"]["CompletionBody"]["properties"].items():
        for schema in (field, *field.get("anyOf", [])):
            for key, beyond in NEIGHBOURS.items():
                if key in schema:
                    found.append((name, key, schema[key] + beyond))
    return found


def test_what_the_bounds_forbid_is_refused(documented, spec):
    """Every numeric bound that is written down is one that the route checks."""
    cases = bounded(spec)
    assert len(cases) >= 20
    for name, key, value in cases:
        response, text = call(documented, "POST", "/v1/completions", {**BODY, name: value})
        assert response.status == 400, (name, key, value)
        assert json.loads(text)["error"]["param"] == name


def test_the_examples_are_accepted(chatty, spec):
    """One field at a time, on the sampler that reads it."""
    owners = {name: of[0] for name, of in READERS.items() if DEFAULT_SAMPLER not in of}
    window = ("remdm_t_on", "remdm_t_off", "remdm_alpha_on")
    needs: dict[str, dict] = {name: {"remdm_schedule": "loop"} for name in window}
    needs |= {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}}
    needs |= {"max_completion_tokens": {"max_tokens": None}, "tools": {"tool_choice": "none"}}
    needs |= {"cache_interval": {"cache": "dual"}, "cache_vicinity": {"cache": "vicinity"}}
    needs |= {"samples": {"echo": True, "logprobs": 1}}
    needs |= {"sub_block_length": {"block_length": 32, "steps": 8}}
    completions = spec["components"]["schemas"]["CompletionBody"]["properties"]
    for body, path in (("CompletionBody", "/v1/completions"), ("ChatBody", "/v1/chat/completions")):
        for name, field in spec["components"]["schemas"][body]["properties"].items():
            example = field["examples"][0]
            if body == "ChatBody" and name in completions and not THOROUGH:
                continue
            if name == "logprobs" and body == "ChatBody":
                example = True
            sent = {**BODY, "max_tokens": 32, "steps": 2} if body == "CompletionBody" else {}
            if body == "ChatBody":
                sent = {"messages": [{"role": "user", "content": "Tom"}], "steps": 2}
                sent["max_tokens"] = 32
            if name in ("draft", "pinned"):
                continue  # likewise, see below
            if name in owners:
                if SAMPLERS[owners[name]].params.needs_canvases:
                    continue  # of another kind of model: tests/server/api/test_canvas_family.py
                sent["sampler"] = owners[name]
            sent |= {**needs.get(name, {}), name: example}
            response, text = call(chatty, "POST", path, sent)
            assert response.status == 200, (name, text)


EXTRAS = [
    {},
    {"logprobs": 2},
    {"trajectory": "delta", "steps": 20, "mixing_ratio": 0.3},
    {"diffusing": True},
    {"stream_options": {"include_usage": True}, "latency_budget_ms": 5000},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
]


@pytest.mark.parametrize("more", EXTRAS)
@pytest.mark.parametrize("chat", [False, True])
def test_chunks_of_streams_are_what_is_said(chatty, chat, more):
    body = {"max_tokens": 20, "steps": 4, "seed": 3, "stream": True, "n": 2, **more}
    if chat:
        body["messages"] = [{"role": "user", "content": "Tom"}]
        body |= {"logprobs": True, "top_logprobs": 2} if "logprobs" in more else {}
        path, said = "/v1/chat/completions", TypeAdapter(ChatCompletionChunk)
    else:
        body["prompt"] = "Tom"
        path, said = "/v1/completions", TypeAdapter(CompletionChunk)
    response, text = call(chatty, "POST", path, body)
    assert response.status == 200, text
    *chunks, end = events(text.decode())
    assert end == "[DONE]" and len(chunks) >= 3
    for chunk in chunks:
        said.validate_json(chunk, strict=True)
    whole = {k: v for k, v in body.items() if k not in ("trajectory", "diffusing")}
    whole |= {"stream": False}
    whole.pop("stream_options", None)
    response, text = call(chatty, "POST", path, whole)
    said = TypeAdapter(ChatCompletion if chat else Completion)
    said.validate_json(text, strict=True)
    with pytest.raises(ValidationError):
        said.validate_python({**json.loads(text), "more": 1})


def test_keys_are_in_it_where_they_are_asked_for(tiny):
    app = create_app([make_engine(tiny)], settings_of(api_keys="secret-key"))
    spec = document(app, app.state.xdlm)
    assert spec["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert spec["paths"]["/health"]["get"]["security"] == []
    assert "secret-key" not in json.dumps(spec)


def test_tokenizer_info_says_what_harnesses_read(chatty, served, tiny):
    response, text = call(chatty, "GET", "/tokenizer_info")
    info = json.loads(text)
    assert response.status == 200
    assert info["bos_token"] == "<|startoftext|>" and info["eos_token"] == "<|endoftext|>"
    assert info["pad_token"] == "<|endoftext|>" and info["mask_token"] == "<|mdm_mask|>"
    assert info["model_max_length"] == 256 and "messages" in info["chat_template"]
    assert json.loads(call(served, "GET", "/tokenizer_info")[1])["chat_template"] is None
