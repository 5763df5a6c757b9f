"""Schemas and regular expressions that are recursive, remote, deep, huge or exponential."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults.conftest import Watched, watched
from tests.support.http import call
from tests.support.sockets import CANARY

SECONDS = 0.5
LONGEST = 2 * SECONDS + 1 + 5
"""Seconds: the CPU time that the process may take for one constraint, and the grace after it."""
BRACES = "{" + '"items":{' * 50_000 + "}" * 50_001
CHAIN: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(200)}
PAIRS: dict[str, Any] = {
    f"a{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/a{n + 1}"}] * 2, "minItems": 2}
    for n in range(30)
}
LIST = {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}}
WIDE = {f"p{n}": {"type": "null"} for n in range(15_000)}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "remote": ({"guided_json": {"$ref": "https://example.com/schema.json"}}, "$ref"),
    "a file": ({"guided_json": {"$ref": "file:///etc/passwd"}}, "$ref"),
    "itself": ({"guided_json": {"$ref": "#"}}, "refers to itself"),
    "a list": ({"guided_json": {"$ref": "#/$defs/list", "$defs": {"list": LIST}}}, "to itself"),
    "each other": (
        {"guided_json": {"$ref": "#/$defs/a0", "$defs": {**CHAIN, "a3": CHAIN["a0"]}}},
        "refers to itself",
    ),
    "a chain": ({"guided_json": {"$ref": "#/$defs/a0", "$defs": CHAIN}}, "64 schemas deep"),
    "deep": ({"guided_json": BRACES}, "guided_json"),
    "doubled": (
        {"guided_json": {"$ref": "#/$defs/a0", "$defs": {**PAIRS, "a30": {"type": "null"}}}},
        "more than",
    ),
    "wide": ({"guided_json": json.dumps({"type": "object", "properties": WIDE})}, "guided_json"),
    "an enum": ({"guided_json": {"enum": [f"{n:05}" * 4 for n in range(20_000)]}}, "more than"),
    "choices": ({"guided_choice": [str(n) for n in range(1025)]}, "1024"),
    "a length": ({"guided_json": {"type": "string", "minLength": 10**9}}, "limit"),
    "a count": (
        {"guided_json": {"type": "array", "items": {"type": "null"}, "maxItems": 60_000}},
        "more than",
    ),
    "a pattern": (
        {"guided_json": {"type": "string", "pattern": "^(a|aa)+$", "maxLength": 60_000}},
        "more than",
    ),
    "backtracking": ({"guided_regex": "(a|b)*a(a|b){20}"}, "more than"),
    "powers": ({"guided_regex": "(((a{1000}){1000}){1000})"}, "more than"),
    "options": ({"guided_regex": "(a?){20000}a{20000}"}, "more than"),
    "groups": ({"guided_regex": "(" * 5000 + "a" + ")" * 5000}, "64 deep"),
    "nothing": ({"guided_json": False}, "guided_json"),
    "a bound": ({"guided_json": {"type": "number", "minimum": 1e300}}, "digits"),
}


@pytest.fixture(scope="module")
def strict(tiny) -> Iterator[Watched]:
    """Compiles for half a second at most."""
    with watched(tiny, constraint_seconds=SECONDS) as server:
        yield server


@pytest.mark.parametrize("case", CASES)
def test_row_15_a_constraint_that_is_too_much_is_a_400_in_bounded_time(strict, case):
    fields, words = CASES[case]
    began = time.monotonic()
    response, text = call(strict.served, "POST", "/v1/completions", {**CANARY, **fields})
    took = time.monotonic() - began
    error = json.loads(text)["error"]
    assert response.status == 400, text
    assert error["param"] in fields and words in error["message"]
    assert len(error["message"]) < 1000 and took < LONGEST
    assert strict.ask(guided_choice=["x"])[0]["text"] == "x"


def test_row_15_a_regular_expression_cannot_backtrack(strict):
    (choice,) = strict.ask(guided_regex="(a+)+b", max_tokens=20)
    assert re.fullmatch("a+b", choice["text"])


def test_row_15_others_are_answered_while_a_constraint_is_compiled(tiny):
    with watched(tiny, constraint_seconds=1.0, constraint_states=1 << 20) as server:
        body = {**CANARY, "guided_regex": "(a|b)*a(a|b){20}"}
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(call, server.served, "POST", "/v1/completions", body)
            answered = 0
            while not slow.done():
                assert server.ask() == server.canary
                answered += not slow.done()
        response, text = slow.result()
        assert response.status == 400 and b"more than" in text
        assert answered >= 3
