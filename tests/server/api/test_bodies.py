"""Bodies that nobody would write: whatever comes in, no answer is a 500, and every refusal is the
error object.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from server.api.routes.chat_completions import ChatBody
from server.api.routes.completions import CompletionBody
from server.api.routes.messages import MessagesBody
from server.api.routes.responses import ResponsesBody
from server.api.routes.tokenize import DetokenizeBody, TokenizeBody
from server.api.schemas.decisions import DecisionsBody
from server.http.anthropic import AnthropicError
from server.http.errors import Error
from tests.server.api.test_fuzz import small  # noqa: F401 (a fixture)
from tests.support.effort import count

BODIES = {
    "/v1/completions": (CompletionBody, {"prompt": "Tom", "max_tokens": 4, "steps": 2}),
    "/v1/chat/completions": (
        ChatBody,
        {"messages": [{"role": "user", "content": "Tom"}], "max_tokens": 4, "steps": 2},
    ),
    "/v1/responses": (ResponsesBody, {"input": "Tom", "max_output_tokens": 4, "steps": 2}),
    "/v1/messages": (
        MessagesBody,
        {"messages": [{"role": "user", "content": "Tom"}], "max_tokens": 4, "steps": 2},
    ),
    "/v1/decisions": (
        DecisionsBody,
        {"input": "Tom", "questions": [{"type": "predicate", "instructions": "A dog?"}]},
    ),
    "/tokenize": (TokenizeBody, {"prompt": "Tom"}),
    "/detokenize": (DetokenizeBody, {"tokens": [5, 6]}),
}
FIELDS = [
    (path, name)
    for path, (body, _) in BODIES.items()
    for name in (*body.model_fields, *body.neutral)
]
ODD_TEXTS = ["", "\x00", "\ud800", "a\udfffb", "\ufeff", "\u202e", "<|mdm_mask|>", "é" * 300]
ODD_NUMBERS = [0, -1, 1.5, -0.0, 1e308, 2**31, 2**53, 2**63, -(2**63) - 1, 10**40]
NO_NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "9" * 5000,
    "01",
    "+1",
    "0x1",
    "1.",
]
texts = st.text(max_size=20) | st.sampled_from(ODD_TEXTS)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(ODD_NUMBERS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def deep(depth: int, kind: str) -> str:
    """JSON so many levels deep, or brackets that nobody closes."""
    pairs = {"list": ("[", "]"), "object": ('{"a":', "}"), "open": ("[", "")}
    before, after = pairs[kind]
    return before * depth + ("1" if after else "") + after * depth


written = (
    values.map(json.dumps)
    | st.sampled_from(NO_NUMBERS)
    | st.builds(
        deep,
        st.sampled_from([1, 31, 32, 33, 500, 1000, 5000, 100_000]),
        st.sampled_from(["list", "object", "open"]),
    )
    | st.sampled_from(['{"a":1,"a":2}', '"\\ud800"', '"\\u0000"', "tru", '"', "[1,]", ""])
)
"""The text of a value, of valid JSON or not."""


@dataclass
class Sender:
    """One connection, kept alive; counts what came back, and how long the longest took."""

    port: int
    statuses: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def post(self, path: str, body: bytes) -> None:
        began = time.monotonic()
        try:
            response, text = self._answer(path, body)
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            self.connection.close()  # it was silent for longer than the server keeps one open
            response, text = self._answer(path, body)
        self.longest = max(self.longest, time.monotonic() - began)
        self.statuses[response.status] += 1
        assert response.status < 500, (body[:500], text)
        if response.status != 200:
            kind = AnthropicError if path == "/v1/messages" else Error
            TypeAdapter(kind).validate_json(text, strict=True)

    def _answer(self, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        self.connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return response, response.read()


@pytest.fixture
def sender(small) -> Iterator[Sender]:  # noqa: F811
    sender = Sender(small.port)
    yield sender
    sender.connection.close()
    assert small.engine.scheduler.running + small.engine.scheduler.waiting == 0


def storm(examples: int, derandomize: bool):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def send_fields(sender: Sender, examples: int, derandomize: bool) -> None:
    """Odd values, one or two, in fields that exist."""

    @storm(examples, derandomize)
    @given(where=st.sampled_from(FIELDS), value=written, other=st.none() | written, data=st.data())
    def run(where, value, other, data):
        path, name = where
        _, good = BODIES[path]
        parts = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in good.items() if n != name]
        parts.append(f"{json.dumps(name)}: {value}")
        if other is not None:
            names = [n for p, n in FIELDS if p == path and n != name and n not in good]
            if names:
                parts.append(f"{json.dumps(data.draw(st.sampled_from(names)))}: {other}")
        sender.post(path, ("{" + ", ".join(parts) + "}").encode(errors="surrogatepass"))

    run()


def send_bytes(sender: Sender, examples: int, derandomize: bool) -> None:
    """Bodies that are any JSON or none, and good ones with bytes changed."""
    good = [json.dumps(body).encode() for _, body in BODIES.values()]
    broken = st.builds(
        lambda body, at, junk, cut: body[: at % len(body)] + junk + body[at % len(body) + cut :],
        st.sampled_from(good),
        st.integers(0, 200),
        st.binary(max_size=4),
        st.integers(0, 3),
    )
    anything = broken | written.map(lambda text: text.encode()) | st.binary(max_size=40)

    @storm(examples, derandomize)
    @given(path=st.sampled_from(list(BODIES)), body=anything)
    def run(path, body):
        sender.post(path, body)

    run()


def test_odd_values_in_every_field(sender):
    send_fields(sender, count(150, 400), derandomize=True)
    assert sum(sender.statuses.values()) >= count(150, 400)
    assert sender.statuses[200] >= count(3, 10) and sender.statuses[400] >= count(40, 100)


def test_bodies_that_are_hardly_json(sender):
    send_bytes(sender, count(120, 300), derandomize=True)
    assert sender.statuses[400] >= count(40, 100)


@pytest.mark.parametrize("path", BODIES)
def test_extreme_values_of_each_field_are_taken_or_refused(sender, path):
    """Every field by name, with each of the values that have broken servers before."""
    worst = [*NO_NUMBERS, *map(json.dumps, [*ODD_NUMBERS, *ODD_TEXTS, True, False, [], {}, [[]]])]
    values = [*worst, deep(1000, "list"), '{"a": 1, "a": 2}']
    every = count(12, 1)  # a twelfth of them, another one for each field, in ``make test``
    for number, (of, name) in enumerate(FIELDS):
        rest = {n: v for n, v in BODIES[of][1].items() if n != name}
        for value in values[number % every :: every] if of == path else ():
            body = json.dumps(rest)[:-1] + (", " if rest else "") + f"{json.dumps(name)}: {value}}}"
            sender.post(path, body.encode())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_odd_values_at_length(sender):
    send_fields(sender, 20_000, derandomize=False)
    send_bytes(sender, 10_000, derandomize=False)
