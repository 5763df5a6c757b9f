"""Random schemas and expressions against jsonschema and Python's re; a corpus of bad ones."""

from __future__ import annotations

import copy
import datetime
import ipaddress
import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jsonschema
import pydantic
import pytest

from sampler.constraints.byte_automaton import DEAD, ByteAutomaton
from server.constraints import spec
from server.constraints.expressions import TooComplex
from server.constraints.formats import FORMATS
from server.constraints.json_schema import OF_TYPE, BadSchema
from server.constraints.regex import BadRegex
from tests.server.constraints.made import compiled, distances, expression, text_of, whole_schema
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
        ({"type": "string", "format": "idn-email"}, "idn-email"),
        ({"type": "string", "format": ["date"]}, "format must be a text"),
        ({"oneOf": [{"type": [{}]}, {"type": "null"}]}, "oneOf"),
        ({"enum": [1], "type": [[]]}, "type must be"),
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


JUNK: list[Any] = [[], {}, None, 0, -1, 1.5, "", "string", "#/$defs/part", True, False, [[]], [{}]]
JUNK += [[None], {"a": []}, 10**40, 1e308, ["string", "null"], "\ud800"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values within one, itself included."""
    yield path
    inner = list(enumerate(value)) if isinstance(value, list) else []
    for key, part in value.items() if isinstance(value, dict) else inner:
        yield from places(part, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a place."""
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize("first", range(0, count(400, 20_000), count(400, 1_000)))
def test_schema_with_junk_in_it_is_compiled_or_refused(first: int) -> None:
    for seed in range(first, first + count(400, 1_000)):
        chance = random.Random(seed)
        schema = whole_schema(chance)
        *before, last = chance.choice([path for path in places(schema) if path])
        junk = copy.deepcopy(chance.choice(JUNK))
        if isinstance(found := at(schema, (*before, last)), dict) and chance.random() < 0.5:
            found[chance.choice(sorted({*OF_TYPE["object"], *OF_TYPE["string"], "type"}))] = junk
        else:
            at(schema, tuple(before))[last] = junk
        with suppress(BadSchema, BadRegex, TooComplex):
            compiled(spec.json_schema(schema), states=2048, seconds=2.0)


def longest(automaton: ByteAutomaton) -> int:
    """Most bytes of a text of a finite language."""
    most: dict[int, int] = {}

    def of(state: int) -> int:
        if state not in most:
            following = {*automaton.following[state].tolist()} - {DEAD}
            most[state] = max((1 + of(target) for target in following), default=0)
        return most[state]

    return of(0)


PYTHON: dict[str, Any] = {
    **{"date": datetime.date, "time": datetime.time, "date-time": datetime.datetime},
    **{"duration": datetime.timedelta, "uuid": uuid.UUID, "uri": pydantic.HttpUrl},
    **{"ipv4": ipaddress.IPv4Address, "ipv6": ipaddress.IPv6Address},
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_what_others_read_and_has_the_lengths_that_are_stated(name: str) -> None:
    form, chance = FORMATS[name], random.Random(1)
    schema = {"type": "string", "format": name}
    automaton = compiled(spec.json_schema(schema))
    reader = pydantic.TypeAdapter(PYTHON.get(name, str))
    for patience in range(0, 120, 6):
        text = json.loads(text_of(automaton, chance, patience))
        reader.validate_python(text)
        assert re.fullmatch(form.source, text)
    marks = 2
    assert distances(automaton)[0] == form.shortest + marks
    assert longest(automaton) == form.longest + marks
    longer = {**schema, "minLength": form.shortest, "maxLength": form.longest}
    assert len(compiled(spec.json_schema(longer)).accepting) == len(automaton.accepting)


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


@pytest.mark.parametrize("schema", [True, {}, {"title": "X", "description": "anything"}])
def test_schema_that_restricts_nothing_is_any_value(schema: Any) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    automaton = compiled(spec.json_schema(whole))
    for value in ('"a"', "1.5", "null", '[{"a": []}]'):
        assert automaton.accepts(f'{{"x": {value}}}'.encode())


@pytest.mark.parametrize("source", ["(", ")", "[a", "a{2", "*", "\\b", "(?i)a", "\\1", "a{3,1}"])
def test_regex_that_is_malformed_or_not_regular_is_refused(source: str) -> None:
    with pytest.raises(BadRegex):
        compiled(spec.regex(source))
