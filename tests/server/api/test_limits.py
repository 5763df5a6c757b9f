"""Every limit lets through what lies at it, and refuses one more with both numbers."""

from __future__ import annotations

import http.client
import json

import pytest

from models.tokenization.tokenizer import TextTokenizer
from server.config import Settings
from server.http.json_shape import MAX_DEPTH, Shape
from tests.support.http import call, raw_post
from tests.support.serving import make_engine, run_server, settings_of

LIMITS = {"max_choices": 6, "max_steps": 12, "max_work": 3000, "max_stops": 3}
LIMITS |= {"max_stop_length": 10, "max_body_mb": 1}
BODY = {"prompt": "Tom", "max_tokens": 4, "steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def strict(tiny):
    yield from run_server(make_engine(tiny), settings_of(**LIMITS))


def post(served, body, path="/v1/completions"):
    response, text = call(served, "POST", path, body)
    return response.status, json.loads(text)


def ids(tokenizer: TextTokenizer, count: int) -> list[int]:
    found = tokenizer.encode("the dog ran and " * count)
    assert len(found) >= count
    return found[:count]


@pytest.mark.parametrize(
    ("at", "over", "param", "words"),
    [
        ({"n": 6}, {"n": 7}, "n", "n is 7; the limit is 6"),
        (
            {"n": 3, "prompt": ["a", "b"]},
            {"n": 4, "prompt": ["a", "b"]},
            "n",
            "n × prompts is 4 × 2 = 8; the limit is 6",
        ),
        (
            {"prompt": ["a"] * 6},
            {"prompt": ["a"] * 7},
            "prompt",
            "n × prompts is 1 × 7 = 7; the limit is 6",
        ),
        ({"steps": 12}, {"steps": 13}, "steps", "steps is 13; the limit is 12"),
        (
            {"prompt": [300], "max_tokens": 249, "steps": 12},  # 250 positions
            {"prompt": [300], "max_tokens": 250, "steps": 12},
            "steps",
            "steps × positions is 12 × 251 = 3012; the limit is 3000",
        ),
        (
            {"prompt": [300], "max_tokens": 99, "n": 6, "steps": 5},
            {"prompt": [300], "max_tokens": 100, "n": 6, "steps": 5},
            "steps",
            "steps × positions is 5 × 606 = 3030; the limit is 3000",
        ),
        (
            {"stop": ["\x01", "\x02", "\x03"]},
            {"stop": ["\x01", "\x02", "\x03", "\x04"]},
            "stop",
            "the number of stop strings is 4; the limit is 3",
        ),
        (
            {"stop": ["x", "\x01" * 10]},
            {"stop": ["x", "\x01" * 11]},
            "stop",
            "the length of a stop string is 11; the limit is 10",
        ),
        (
            {"prompt": [300], "max_tokens": 255},
            {"prompt": [300], "max_tokens": 256},
            "max_tokens",
            "the canvas has 256 positions; the prompt takes 1 and max_tokens 256",
        ),
        (
            {"prompt": [300] * 255, "max_tokens": None},
            {"prompt": [300] * 256, "max_tokens": None},
            "prompt",
            "the prompt takes 256 positions and at least 1 must be left to fill; "
            "the canvas has 256",
        ),
    ],
)
def test_what_lies_at_a_limit_passes_and_one_more_is_refused(strict, at, over, param, words):
    status, answer = post(strict, {**BODY, **at})
    assert status == 200, answer
    status, answer = post(strict, {**BODY, **over})
    assert status == 400
    assert answer["error"]["message"] == words and answer["error"]["param"] == param


def test_defaults_stay_below_the_limit_of_steps(strict):
    """The checkpoint's 32 steps are more than 12: a request that says nothing still works."""
    status, answer = post(strict, {"prompt": "Tom", "max_tokens": 4})
    assert status == 200 and answer["usage"]["diffusion"]["steps"] == 12
    _, text = call(strict, "GET", "/v1/models/tiny")
    assert json.loads(text)["diffusion"]["steps"] == 12


def test_a_conversation_over_the_canvas_names_its_messages(chatty):
    messages = [{"role": "user", "content": "the dog ran and " * 100}]
    status, answer = post(chatty, {"messages": messages}, "/v1/chat/completions")
    assert status == 400 and answer["error"]["param"] == "messages"
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "the canvas has 256" in answer["error"]["message"]


def padded(size: int) -> bytes:
    """A valid body of exactly so many bytes."""
    body = json.dumps(BODY).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


def test_a_body_of_the_limit_passes_and_a_byte_more_is_413(strict):
    limit = 1 << 20
    assert call(strict, "POST", "/v1/completions", padded(limit))[0].status == 200
    response, text = call(strict, "POST", "/v1/completions", padded(limit + 1))
    error = json.loads(text)["error"]
    assert response.status == 413 and error["code"] == "body_too_large"
    assert error["message"] == f"the body has {limit + 1} bytes; the limit is {limit}"
    assert response.headers["X-Request-Id"]


def test_a_declared_length_is_refused_before_the_body_is_sent(strict):
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Length", str(10**12))
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413 and str(10**12) in json.loads(response.read())["error"]["message"]
    connection.close()


@pytest.mark.parametrize(("size", "status"), [(1 << 20, 200), ((1 << 20) + 1, 413)])
def test_a_stream_that_declares_nothing_is_measured(strict, size, status):
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)
    body = padded(size)
    pieces = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", pieces, headers, encode_chunked=True)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == status
    if status == 413:
        assert "; the limit is 1048576" in answer["error"]["message"]
    connection.close()


def nested(depth: int) -> bytes:
    """A body whose brackets are so deep: an object, then lists."""
    return b'{"prompt": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 1_000, 100_000])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_nesting_is_measured_and_never_recursed_into(strict, path, depth):
    status, answer = post(strict, nested(depth), path)
    assert status == 400
    deep = f"the body is nested {depth} deep; the limit is {MAX_DEPTH}"
    assert (answer["error"]["message"] == deep) == (depth > MAX_DEPTH)


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        (rb"1", 0),
        (rb"[]", 1),
        (rb'{"a": [[1], {"b": 2}]}', 3),
        (rb'["[[[[", {}]', 2),
        (rb'["\"[[[[", {}]', 2),
        (rb'["\\", [[]]]', 3),
        (rb'["\\\"[[", 1]', 1),
        (b"[" * 5000, 5000),
    ],
)
def test_brackets_in_strings_are_not_nesting(body, depth):
    assert Shape.of(body).depth == depth


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b'{"prompt": "a", "n": 1, "n": 2}', "n", "'n' is given twice"),
        (b'{"prompt": "a", "stream_options": {"x": 1, "x": 1}}', "x", "'x' is given twice"),
        (b'{"prompt": "a", "temperature": 1e400}', None, "1e400 is not a finite number"),
        (b'{"prompt": "a", "temperature": NaN}', None, "NaN is not a finite number"),
        (b'{"prompt": "a", "temperature": -Infinity}', None, "-Infinity is not a finite number"),
        (b'{"prompt": "a", "seed": 9223372036854775808}', "seed", "9223372036854775808"),
        (b'{"prompt": "a", "seed": ' + b"9" * 33 + b"}", None, "33 digits; the limit is 32"),
        (b'{"prompt": "a", "seed": ' + b"9" * 9999 + b"}", None, "9999 digits"),
        (b'{"prompt": "a", "n": 99999999999999999999999999999999}', "n", "; the limit is 6"),
        (b'{"prompt": "a\\ud800"}', "prompt", "prompt is not valid Unicode text"),
        (b'{"prompt": "a", "stop": "\\uDFFF"}', "stop", "stop is not valid Unicode text"),
        (b'{"prompt": "a", "\\ud800": 1}', None, "the body is not valid Unicode text"),
        (b'"\\ud800"', None, "the body is not valid Unicode text"),
        (b'{"prompt": "a\xff"}', None, "not valid UTF-8 at byte 13"),
        (b'{"prompt": "a\x00"}', None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b'{"prompt": "a", "steps": true}', "steps", "integer"),
        (b'{"prompt": "a", "temperature": false}', "temperature", "number"),
        (b'{"prompt": "a", "presence_penalty": false}', "presence_penalty", "not supported"),
        (b'{"prompt": "a", "best_of": true}', "best_of", "not supported"),
        (b'{"prompt": [true]}', "prompt", "prompt"),
    ],
)
def test_bodies_that_could_be_read_in_two_ways_are_refused(strict, body, param, words):
    status, answer = post(strict, body)
    assert status == 400
    assert words in answer["error"]["message"] and answer["error"]["param"] == param


def test_a_number_is_what_it_is_however_it_is_written(strict):
    told = [
        post(strict, b'{"prompt": "Tom", "max_tokens": 4, "seed": 1, "steps": %b}' % steps)
        for steps in (b"2", b"2.0", b"20e-1", b"2.5")
    ]
    assert [status for status, _ in told] == [200, 200, 200, 400]
    assert told[0][1]["choices"] == told[1][1]["choices"] == told[2][1]["choices"]


def test_a_nul_written_as_an_escape_is_text(strict):
    assert post(strict, {**BODY, "prompt": "a\x00b", "stop": "\x00"})[0] == 200


def test_other_content_types_are_refused(strict):
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": ""}):
        body = json.dumps(BODY).encode()
        response, text = call(strict, "POST", "/v1/completions", body, headers)
        assert response.status == 400 and "application/json" in json.loads(text)["error"]["message"]
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    body = json.dumps(BODY).encode()
    assert call(strict, "POST", "/v1/completions", body, headers)[0].status == 200


def test_the_limit_of_work_takes_a_long_canvas_a_token_a_step():
    assert Settings.model_fields["max_work"].default == 4096 * 4096


def test_a_refused_body_leaves_the_server_as_it_was(strict):
    raw_post(strict.port, {"prompt": "x" * (1 << 21)}).close()
    assert post(strict, BODY)[0] == 200
