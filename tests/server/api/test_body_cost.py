"""Reading a body costs little, whatever stands in it: every list and text of every body, as the
specification has them, filled with what is cheap to write and dear to report.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.api.app import create_app
from server.api.openapi import document
from server.http.json_shape import BYTES_PER_CONTAINER, FREE_CONTAINERS, MAX_VALUES, Shape
from tests.support.effort import count
from tests.support.memory import rss
from tests.support.serving import make_engine, run_server, settings_of

SMALL, WHOLE = 256 << 10, (8 << 20) - 1024
PIECES = {
    "objects": "{}",
    "lists": "[]",
    "deep lists": "[[0]]",
    "numbers": "1",
    "ids": "10000",
    "floats": "0.5",
    "nulls": "null",
    "booleans": "true",
    "texts": '"a"',
    "empty texts": '""',
    "messages": '{"role":"user","content":3}',
    "records": '{"event":"x","data":{"a":[1,2]},"of":"a step of a recording, and more of it"}',
}
TEXTS = {"a long text": "a", "escapes": "\\u0041", "quotes": '\\"', "pairs": "\\ud83d\\ude00"}


def value_of(kind: str, size: int) -> str:
    """JSON of about so many bytes."""
    if kind == "names":
        return "{" + ",".join(f'"{n:06}":1' for n in range(size // 11)) + "}"
    if kind in TEXTS:
        return '"' + TEXTS[kind] * (size // len(TEXTS[kind])) + '"'
    piece = PIECES[kind]
    return "[" + ",".join([piece] * (size // (len(piece) + 1))) + "]"


KINDS = [*PIECES, *TEXTS, "names"]
WORST = ["objects", "messages", "quotes"]
INSIDE = {
    "messages": '[{{"role":"user","content":{}}}]',
    "input": '[{{"role":"user","content":{}}}]',
    "metadata": '{{"run":{}}}',
    "stop_sequences": "[{}]",
    "questions": '[{{"type":"choice","instructions":"a","choices":{}}}]',
    "tools": '[{{"type":"function","function":{{"name":"f","parameters":{}}}}}]',
    "runs": '[{{"events":{}}}]',
    "stop": "[{}]",
    "prompt": "[{}]",
    "logit_bias": '{{"5":{}}}',
    "stream_options": '{{"include_usage":{}}}',
}
"""Where in a field there is room for a list or a text of its own."""


def takes_much(schema: dict) -> bool:
    """Whether a field takes a list, a text or an object of any size."""
    kinds = schema.get("anyOf", [schema])
    return any(
        kind.get("type") in ("array", "string", "object") or "$ref" in kind
        for kind in kinds
        if "enum" not in kind and "const" not in kind
    )


@pytest.fixture(scope="module")
def fields(tiny) -> list[tuple[str, str, list[str]]]:
    """Route, field, and the fields that its body needs."""
    app = create_app([make_engine(tiny)], settings_of())
    spec = document(app, app.state.xdlm)
    found = []
    for path, operations in spec["paths"].items():
        if body := operations.get("post", {}).get("requestBody"):
            name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
            schema = spec["components"]["schemas"][name]
            for field, kind in schema["properties"].items():
                if takes_much(kind):
                    found.append((path, field, schema.get("required", [])))
    return found


NEEDED = {"prompt": '"a"', "messages": '[{"role":"user","content":"a"}]', "text": '"a"'}
NEEDED |= {"questions": '[{"type":"predicate","instructions":"a"}]'}
NEEDED |= {"input": '"a"', "tokens": "[5]", "runs": '[{"events":[{}]}]'}


def body_of(field: str, value: str, needs: list[str]) -> bytes:
    parts = {name: NEEDED[name] for name in needs} | {field: value}
    return ("{" + ",".join(f'"{name}":{part}' for name, part in parts.items()) + "}").encode()


class Health:
    """Asks for /health without a pause; keeps the longest wait."""

    def __init__(self, port: int) -> None:
        self.longest, self.over = 0.0, False
        self._port = port
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self.over:
            began = time.monotonic()
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.002)
        connection.close()

    @contextmanager
    def watched(self) -> Iterator[Health]:
        self._thread.start()
        try:
            yield self
        finally:
            self.over = True
            self._thread.join()


def send(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, text


@pytest.fixture(scope="module")
def plain(tiny):
    yield from run_server(make_engine(tiny), settings_of())


def check(port: int, path: str, body: bytes, waits: float, lasts: float) -> None:
    """Refused or answered, soon, while others are answered. A busy machine stalls by itself: the
    best of some tries counts.
    """
    for left in reversed(range(4)):
        began = time.monotonic()
        with Health(port).watched() as health:
            status, text = send(port, path, body)
        took = time.monotonic() - began
        assert status < 500, (path, body[:80], text[:200])
        if status >= 400:
            error = json.loads(text)["error"]
            assert len(text) < 2000 and error["message"]
        if health.longest <= waits and took <= lasts:
            return
        assert left, (path, body[:80], health.longest, took)


def test_the_fields_are_found(fields):
    names = {field for _, field, _ in fields}
    wanted = {"prompt", "messages", "stop", "tokens", "text", "runs", "logit_bias", "suffix"}
    assert wanted | {"topk_absorb", "topk_uniform", "metadata", "user", "model"} <= names
    assert len({path for path, _, _ in fields}) >= 8


@pytest.mark.parametrize(
    "kind",
    [kind if kind in WORST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_no_field_of_any_body_costs_more_than_its_bytes(plain, fields, kind):
    """A quarter of a mebibyte. One error for each element would take seconds and hold the loop."""
    value, every = value_of(kind, SMALL), count(3, 1)  # in ``make test`` each field with one kind
    for path, field, needs in fields[KINDS.index(kind) % every :: every]:
        check(plain.port, path, body_of(field, value, needs), waits=0.25, lasts=2)
        if field in INSIDE:
            inner = INSIDE[field].format(value)
            check(plain.port, path, body_of(field, inner, needs), waits=0.25, lasts=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_any_body_costs_much_at_the_limit(plain, fields, kind):
    value = value_of(kind, WHOLE)
    for path, field, needs in fields:
        before = rss()
        check(plain.port, path, body_of(field, value, needs), waits=0.25, lasts=10)
        assert rss() - before <= 8 * WHOLE
        if field in INSIDE:
            inner = INSIDE[field].format(value)
            check(plain.port, path, body_of(field, inner, needs), waits=0.25, lasts=10)


@pytest.mark.parametrize("piece", ["{}", "[]", "1"])
def test_a_body_of_too_many_values_is_refused_with_both_numbers(plain, piece):
    count = (8 << 20) // 4
    body = ('{"prompt":[' + ",".join([piece] * count) + "]}").encode()[: 8 << 20]
    check(plain.port, "/v1/completions", body, waits=0.25, lasts=10)
    _, text = send(plain.port, "/v1/completions", body)
    error = json.loads(text)["error"]
    assert error["code"] == "limit_exceeded"
    assert f"the body holds {Shape.of(body).values} values" in error["message"]
    assert f"the limit is {MAX_VALUES}" in error["message"]


def test_lists_and_objects_are_bounded_by_the_bytes_that_hold_them(plain):
    body = ('{"prompt":[' + ",".join(["{}"] * 20_000) + "]}").encode()
    limit = FREE_CONTAINERS + len(body) // BYTES_PER_CONTAINER
    _, text = send(plain.port, "/v1/completions", body)
    message = f"the body holds 20002 lists and objects in {len(body)} bytes; the limit is {limit}"
    assert json.loads(text)["error"]["message"] == message


def test_as_many_prompts_as_a_request_may_have_are_read(plain):
    """128 of 4,096 ids: too long for this canvas, and not for the reader."""
    prompt = "[" + ",".join(["4000"] * 4096) + "]"
    body = ('{"prompt":[' + ",".join([prompt] * 128) + "]}").encode()
    check(plain.port, "/v1/completions", body, waits=0.25, lasts=10)
    status, text = send(plain.port, "/v1/completions", body)
    assert status == 400
    assert json.loads(text)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (b"[]", (1, 1, 0, 2)),
        (b'{"a":[1,2]}', (2, 2, 1, 4)),
        (b'["[{,:",  "\\"[", "\\\\", [2]]', (2, 2, 0, 6)),
        (b'["' + b"\\\\" * 100_000 + b'",[]]', (2, 2, 0, 4)),
        (b'["a' + b"\\\\" * 100_000 + b'\\"",[[]]]', (3, 3, 0, 5)),
        (b'["' + b"[" * 200_000 + b'",{}]', (2, 2, 0, 4)),
        (b'"' * 70_001 + b"[", (0, 0, 0, 1)),
        (b"\\", (0, 0, 0, 1)),
    ],
)
def test_the_shape_of_a_text_is_counted_outside_its_strings(text, shape):
    found = Shape.of(text)
    assert (found.depth, found.containers, found.names, found.values) == shape
