"""Random schemas and expressions against jsonschema and Python's re; a corpus of bad ones."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import jsonschema
import pytest

from server.constraints import spec
from server.constraints.expressions import TooComplex
from server.constraints.json_schema import BadSchema
from server.constraints.regex import BadRegex
from tests.server.constraints.made import compiled, expression, text_of, whole_schema
from tests.support.effort import count


@pytest.mark.parametrize("seed", range(count(30, 2000)))
def test_schema_random_texts_of_it_validate(seed: int) -> None:
    chance = random.Random(seed)
    schema = whole_schema(chance)
    automaton = compiled(spec.json_schema(schema))
    validator = jsonschema.Draft202012Validator(schema)
    for _ in range(4):
        validator.validate(json.loads(text_of(automaton, chance, 60)))


@pytest.mark.parametrize("seed", range(count(40, 2000)))
def test_regex_accepts_what_python_matches_as_a_whole(seed: int) -> None:
    chance = random.Random(seed)
    source = expression(chance)
    automaton = compiled(spec.regex(source))
    for _ in range(5):
        assert re.fullmatch(source, text_of(automaton, chance, 30), re.ASCII)
    for _ in range(20):
        text = "".join(chance.choice("abxé1.\n ") for _ in range(chance.randint(0, 5)))
        assert bool(re.fullmatch(source, text, re.ASCII)) is automaton.accepts(text.encode())


DOUBLING: Any = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(20)}
DEEP: Any = {"type": "string"}
for _ in range(200):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"$ref": "#"}, "refers to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        ({"$ref": "#/$defs/b"}, "not in the schema"),
        (DEEP, "deep"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"not": {"type": "null"}}, "'not'"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no number"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "hostname"}, "hostname"),
        ({"type": "string", "maxLength": 10**9}, "limit"),
        ({"type": "object", "required": ["x"]}, "'x'"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "what"}, "type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_schema_that_is_not_enforced_is_refused_by_name_at_once(schema: Any, word: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadSchema, match=re.escape(word)):
        compiled(spec.json_schema(schema))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "one",
    [
        spec.regex("(a|b)*a(a|b){20}"),
        spec.regex("(((a{1000}){1000}){1000})"),
        spec.json_schema({"type": "string", "maxLength": 60000}),
        spec.json_schema({"enum": [f"{n:05}" * 4 for n in range(5000)]}),
    ],
    ids=lambda one: str(one.value)[:30],
)
def test_language_beyond_the_limits_is_refused_in_bounded_time(one: spec.Spec) -> None:
    began = time.monotonic()
    with pytest.raises(TooComplex):
        compiled(one, states=4096, seconds=2.0)
    assert time.monotonic() - began < 20


def test_nested_repetition_and_shared_references_cost_little() -> None:
    assert compiled(spec.regex("(a+)+$")).accepts(b"aaaa")
    schema = {"$ref": "#/$defs/a0", "$defs": {**DOUBLING, "a20": {"type": "null"}}}
    assert compiled(spec.json_schema(schema)).accepts(b"null")


@pytest.mark.parametrize(
    ("schema", "held", "not_held"),
    [
        ({"type": "integer"}, ["0", "-" + "9" * 15], ["9" * 16, "-0"]),
        ({"type": "integer", "minimum": 5}, ["5", "9" * 15], ["4", "1" + "0" * 15]),
        ({"type": "integer", "minimum": 10**20}, ["1" + "0" * 20, "9" * 40], ["9" * 20]),
        ({"type": "number"}, ["0." + "9" * 15, "9" * 15 + ".5"], ["0." + "9" * 16, "9" * 16]),
        (
            {"type": "number", "exclusiveMaximum": 1, "minimum": 0},
            ["0", "0." + "9" * 14],
            ["0." + "9" * 17, "1", "-0.5"],
        ),
        (
            {"type": "number", "exclusiveMinimum": 99.9999, "maximum": 1000},
            ["99.99991", "1000", "1000.00000000000"],
            ["99.9999", "1000.00000000001", "999." + "9" * 12],
        ),
    ],
    ids=str,
)
def test_number_has_no_more_digits_than_a_double_holds(
    schema: Any, held: list[str], not_held: list[str]
) -> None:
    began = time.monotonic()
    automaton = compiled(spec.json_schema(schema))
    assert time.monotonic() - began < 2  # the digits of a bound do not multiply
    for text in held:
        assert automaton.accepts(text.encode()), text
        jsonschema.validate(json.loads(text), schema)
    assert [text for text in not_held if automaton.accepts(text.encode())] == []


@pytest.mark.parametrize("source", ["(", ")", "[a", "a{2", "*", "\\b", "(?i)a", "\\1", "a{3,1}"])
def test_regex_that_is_malformed_or_not_regular_is_refused(source: str) -> None:
    with pytest.raises(BadRegex):
        compiled(spec.regex(source))
