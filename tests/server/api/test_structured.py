"""Texts of a JSON schema, a regular expression or a choice: fields, answers, streams, refusals."""

from __future__ import annotations

import json
import random
import re
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.server.constraints.made import expression, whole_schema
from tests.support.effort import count
from tests.support.http import call

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"enum": ["cats", "dogs", "the park"]},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
TEXT = {"prompt": "Tom had a dog.", "max_tokens": 64, "steps": 6, "seed": 3, "temperature": 1.0}
TALK: Any = {"messages": [{"role": "user", "content": "Who are you?"}]}


def post(served, path: str = "/v1/completions", **body):
    response, text = call(served, "POST", path, {**TEXT, **body})
    return response.status, json.loads(text)


def text_of(served, **body) -> str:
    status, answer = post(served, **body)
    assert status == 200, answer
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    return choice["text"]


def refused(served, **body) -> dict:
    status, answer = post(served, **body)
    assert status == 400, answer
    return answer["error"]


SPELLINGS = [
    {"response_format": SCHEMA},
    {"response_format": {**SCHEMA, "json_schema": {**SCHEMA["json_schema"], "strict": True}}},
    {"structured_outputs": {"json": PERSON}},
    {"structured_outputs": {"json": json.dumps(PERSON), "disable_fallback": True}},
    {"guided_json": PERSON},
    {"guided_json": json.dumps(PERSON), "guided_decoding_backend": "auto"},
]


@pytest.mark.parametrize("fields", SPELLINGS, ids=str)
def test_schema_in_each_spelling_gives_a_valid_answer_the_same_in_all(served, fields):
    text = text_of(served, **fields)
    jsonschema.validate(json.loads(text), PERSON)
    assert text == text_of(served, **SPELLINGS[0])


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": {"type": "regex", "regex": "[0-9]{3}-[a-f]{2}"}}, "[0-9]{3}-[a-f]{2}"),
        ({"structured_outputs": {"regex": "(yes|no)!{1,9}"}}, "(yes|no)!{1,9}"),
        ({"guided_regex": "é+😀?"}, "é+😀?"),
        ({"guided_choice": ["cats", "dogs", "a park"]}, "cats|dogs|a park"),
        ({"structured_outputs": {"choice": ["x"]}}, "x"),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 5, 24])
def test_regex_and_choice_match_as_a_whole(served, fields, pattern, steps):
    assert re.fullmatch(pattern, text_of(served, **fields, steps=steps))


@pytest.mark.parametrize("sampler", ["topk", "threshold", "dream", "ancestral", None])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_json_object_parses_with_every_sampler(served, sampler, temperature):
    chosen = {} if sampler is None else {"sampler": sampler}
    format_ = {"response_format": {"type": "json_object"}}
    found = text_of(served, **chosen, **format_, temperature=temperature, max_tokens=40)
    assert isinstance(json.loads(found), dict)


def test_chat_and_n_choices_are_all_valid(chatty):
    body = {**TALK, "response_format": SCHEMA, "n": 3, "max_tokens": 64, "steps": 8}
    response, text = call(chatty, "POST", "/v1/chat/completions", body)
    choices = json.loads(text)["choices"]
    assert response.status == 200 and len(choices) == 3
    for choice in choices:
        jsonschema.validate(json.loads(choice["message"]["content"]), PERSON)
        assert choice["finish_reason"] == "stop"


def test_stream_has_the_text_of_the_answer_and_ends_with_stop(chatty):
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="none", max_retries=0) as client:
        wanted: Any = {
            **{"model": "tiny", "messages": TALK["messages"], "max_tokens": 64, "seed": 5},
            **{"response_format": SCHEMA, "extra_body": {"steps": 8, "block_length": 16}},
        }
        whole = client.chat.completions.create(**wanted).choices[0].message.content
        chunks = list(client.chat.completions.create(**wanted, stream=True))
    pieces = [c.choices[0].delta.content or "" for c in chunks]
    assert "".join(pieces) == whole and len([p for p in pieces if p]) > 1
    assert chunks[-1].choices[0].finish_reason == "stop"


class Pet(BaseModel):
    name: str = Field(max_length=10)
    kind: Literal["cat", "dog"]
    age: int
    weight: float | None


def test_openai_parse_with_a_pydantic_model_works_unchanged(chatty):
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="none", max_retries=0) as client:
        done = client.chat.completions.parse(
            model="tiny", messages=TALK["messages"], response_format=Pet, max_tokens=100
        )
        with client.chat.completions.stream(
            model="tiny", messages=TALK["messages"], response_format=Pet, max_tokens=100
        ) as stream:
            streamed = stream.get_final_completion()
    for answer in (done, streamed):
        assert isinstance(answer.choices[0].message.parsed, Pet)


def test_openai_responses_parse_with_a_pydantic_model_works_unchanged(chatty):
    wanted: Any = {"model": "tiny", "input": "Who are you?", "max_output_tokens": 100}
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="none", max_retries=0) as client:
        done = client.responses.parse(**wanted, text_format=Pet)
        with client.responses.stream(**wanted, text_format=Pet) as stream:
            streamed = stream.get_final_response()
    for answer in (done, streamed):
        assert isinstance(answer.output_parsed, Pet) and answer.status == "completed"
        form = answer.text.format if answer.text else None
        assert form is not None and form.type == "json_schema" and form.name == "Pet"


def test_responses_have_the_text_of_the_chat_with_each_format(chatty):
    for form, flat in (
        (SCHEMA, {"type": "json_schema", **SCHEMA["json_schema"]}),
        ({"type": "json_object"}, {"type": "json_object"}),
        ({"type": "text"}, {"type": "text"}),
    ):
        same = {"steps": 6, "seed": 3, "temperature": 1.0}
        body = {**TALK, **same, "max_tokens": 64, "response_format": form}
        told = json.loads(call(chatty, "POST", "/v1/chat/completions", body)[1])
        body = {"input": TALK["messages"], **same, "max_output_tokens": 64}
        answer = json.loads(
            call(chatty, "POST", "/v1/responses", {**body, "text": {"format": flat}})[1]
        )
        (item,) = answer["output"]
        assert item["content"][0]["text"] == told["choices"][0]["message"]["content"]
        assert answer["text"]["format"] == flat


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_messages_have_a_text_of_the_schema(chatty, field):
    form = {"type": "json_schema", "schema": PERSON}
    given = {"output_format": form} if field == "output_format" else {field: {"format": form}}
    body = {**TALK, "max_tokens": 64, "steps": 6, **given}
    response, text = call(chatty, "POST", "/v1/messages", body)
    answer = json.loads(text)
    assert response.status == 200 and answer["stop_reason"] == "end_turn", answer
    jsonschema.validate(json.loads(answer["content"][0]["text"]), PERSON)


FLAT = {"type": "json_schema", "schema": PERSON}


@pytest.mark.parametrize(
    ("path", "change", "param", "words"),
    [
        ("responses", {"text": {"format": {"type": "regex"}}}, "text", "text.format.type"),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "text", "needs schema"),
        ("responses", {"text": {"format": {**FLAT, "names": 1}}}, "text", "'names'"),
        ("responses", {"text": {"format": {**FLAT, "strict": 1}}}, "text", "strict"),
        ("responses", {"text": {"format": {**FLAT, "schema": {"not": {}}}}}, "text", "'not'"),
        ("responses", {"text": {"format": "json"}}, "text", "text.format"),
        ("responses", {"text": {"format": FLAT}, "max_output_tokens": 4}, "max_output_tokens", "4"),
        ("responses", {"response_format": SCHEMA}, "response_format", "use text.format"),
        ("responses", {"guided_json": PERSON}, "guided_json", "use text.format"),
        (
            "messages",
            {"output_format": FLAT, "max_tokens": 4},
            "max_tokens",
            "max_tokens is 4; a text of output_config.format takes at least ",
        ),
        ("messages", {"output_format": {"type": "json_object"}}, "output_format", "json_schema"),
        ("messages", {"output_config": {"effort": "low"}}, "output_config", "effort"),
        (
            "messages",
            {"output_config": {"format": FLAT}, "output_format": FLAT},
            "output_format",
            "exclude each other",
        ),
        (
            "messages",
            {"output_config": {"format": FLAT}, "stop_sequences": ["x"]},
            "stop_sequences",
            "output_config.format",
        ),
        (
            "messages",
            {"output_config": {"format": {**FLAT, "schema": {"not": {}}}}},
            "output_config",
            "'not'",
        ),
        ("messages", {"response_format": SCHEMA}, "response_format", "use output_config.format"),
    ],
)
def test_a_refused_format_of_the_other_routes_is_named(chatty, path, change, param, words):
    asked = {"input": "Who?"} if path == "responses" else {**TALK, "max_tokens": 64}
    response, text = call(chatty, "POST", f"/v1/{path}", {**asked, "steps": 2, **change})
    error = json.loads(text)["error"]
    assert response.status == 400, text
    assert error["param"] == param and words in error["message"], error


def test_suffix_is_a_part_of_the_text(served):
    text = text_of(served, guided_regex="[a-z]{4,30} the end", suffix=" the end", max_tokens=12)
    assert re.fullmatch("[a-z]{4,30}", text)


def test_infill_given_tokens_are_a_part_of_the_text(served, tiny):
    tokenizer, mask = tiny.tokenizer, tiny.info.mask_id
    ids = [*tokenizer.encode("Tom"), mask, mask, *tokenizer.encode_behind(" and "), mask, mask]
    text = text_of(served, prompt=ids, infill=True, max_tokens=0, guided_regex="[a-z]+ and [a-z]+")
    assert re.fullmatch("[a-z]+ and [a-z]+", text)
    error = refused(served, prompt=ids, infill=True, max_tokens=0, guided_regex="[a-z]{3,9}")
    assert error["param"] == "guided_regex" and "4 positions" in error["message"]


def test_max_tokens_too_small_is_refused_with_both_numbers(served):
    for max_tokens in (1, 4):
        error = refused(served, response_format=SCHEMA, max_tokens=max_tokens)
        found = re.fullmatch(
            r"max_tokens is (\d+); a text of response_format takes at least (\d+) tokens",
            error["message"],
        )
        assert found and int(found[1]) == max_tokens and error["param"] == "max_tokens"
    least = int(found[2])
    assert refused(served, response_format=SCHEMA, max_tokens=least - 1)["param"] == "max_tokens"
    for steps in (1, least):
        text = text_of(served, response_format=SCHEMA, max_tokens=least, steps=steps)
        jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": ["x"]}, "stop"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"sampler": "gidd"}, "sampler"),
        ({"sampler": "remdm"}, "sampler"),
        ({"sampler": "ancestral", "mixing_ratio": 0.2}, "mixing_ratio"),
        ({"sampler": "ancestral", "noise_removal": "none"}, "noise_removal"),
        ({"sampler": "topk", "compat": "official"}, "compat"),
        ({"sampler": "topk", "logits_eos_inf": True}, "logits_eos_inf"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar"),
        ({"response_format": {"type": "regex"}}, "response_format"),
        ({"response_format": {"type": "text", "regex": "a"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": None, "structured_outputs": {}}, "structured_outputs"),
        (
            {"response_format": None, "structured_outputs": {"json": {}, "regex": "a"}},
            "structured_outputs",
        ),
        ({"response_format": None, "structured_outputs": {"grammar": "x"}}, "structured_outputs"),
        ({"response_format": None, "guided_json": "no"}, "guided_json"),
        ({"response_format": None, "guided_choice": []}, "guided_choice"),
        ({"response_format": None, "guided_regex": "(a"}, "guided_regex"),
        ({"response_format": None, "guided_regex": "[^\\s\\S]"}, "guided_regex"),
    ],
    ids=str,
)
def test_what_excludes_a_constraint_is_refused_by_name(served, fields, param):
    assert refused(served, **{"response_format": SCHEMA, **fields})["param"] == param


def test_format_text_and_null_constrain_nothing(served):
    plain = post(served)[1]["choices"]
    assert post(served, response_format={"type": "text"})[1]["choices"] == plain
    assert post(served, response_format=None, guided_json=None)[1]["choices"] == plain


def test_trajectory_of_a_constrained_text_is_recorded_and_made_again(served):
    response, text = call(
        served,
        "POST",
        "/v1/diffusion/trajectories",
        {**TEXT, "guided_json": PERSON},
        {"Accept": "application/json", "Content-Type": "application/json"},
    )
    events = json.loads(text)["events"]
    assert response.status == 200
    (done,) = [e["data"] for e in events if e["event"] == "diffusion.completed"]
    jsonschema.validate(json.loads(done["choices"][0]["text"]), PERSON)


def settings(chance: random.Random, length: int) -> dict[str, Any]:
    """A sampler, steps from one to the canvas' length, a temperature and a nucleus."""
    return {
        "max_tokens": length,
        "steps": chance.choice([1, 2, 7, count(12, length)]),
        "temperature": chance.choice([0.0, 0.3, 1.0, 1.5]),
        "top_p": chance.choice([1.0, 1.0, 0.7]),
        "sampler": chance.choice(["topk", "threshold", "dream", "ancestral"]),
    }


def answered(served, body: dict[str, Any]) -> str | None:
    """A text that has ended; None where the canvas is refused as too small."""
    response, raw = call(served, "POST", "/v1/completions", {**TEXT, **body}, timeout=300)
    answer = json.loads(raw)
    if response.status == 400:
        assert answer["error"]["code"] == "constraint_too_long", (answer, body)
        return None
    assert response.status == 200, (answer, body)
    assert answer["choices"][0]["finish_reason"] == "stop", (answer, body)
    return answer["choices"][0]["text"]


PARTS = range(0, count(20, 2000), count(20, 100))


@pytest.mark.parametrize("first", PARTS)
def test_random_schemas_with_random_settings_are_answered_validly(served, first):
    """Every answer parses and validates, or the canvas is refused as too small."""
    found = 0
    for seed in range(first, first + count(20, 100)):
        chance = random.Random(seed)
        schema = whole_schema(chance)
        body = settings(chance, chance.choice([32, 64, 100])) | {"guided_json": schema}
        if (text := answered(served, {**body, "seed": seed})) is not None:
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))
            found += 1
    assert found > count(12, 75)


@pytest.mark.parametrize("first", PARTS)
def test_random_expressions_with_random_settings_are_matched(served, first):
    """Every answer matches as a whole, or the canvas is refused as too small."""
    found = 0
    for seed in range(first, first + count(20, 100)):
        chance = random.Random(seed)
        source = expression(chance)
        body = settings(chance, chance.choice([8, 24])) | {"guided_regex": source}
        if (text := answered(served, {**body, "seed": seed})) is not None:
            assert re.fullmatch(source, text, re.ASCII), (body, text)
            found += 1
    assert found > count(12, 75)
