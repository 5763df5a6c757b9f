"""The reader of answers on real streams of every kind, in pieces of any size."""

from __future__ import annotations

import json
import urllib.request

import pytest

from loadtest.answer_reader import AnswerReader, failure_of_status
from loadtest.plan import ROUTES, Setting, Workload
from tests.loadtest.conftest import Server

KINDS = {
    "completions": {},
    "chat": {},
    "trajectories": {},
    "images": {"partial_images": 2},
    "delta": {"trajectory": "delta"},
    "canvases": {"diffusing": True},
}


def body_of(name: str, **more) -> tuple[str, dict]:
    kind = name if name in ROUTES else "completions"
    model = "digits" if kind == "images" else "tiny"
    prompt = "seven" if kind == "images" else "Once upon a time"
    workload = Workload(kind, model, (prompt,), 12, {**KINDS[name], **more})
    return ROUTES[kind], workload.body(Setting(3, 0.1), 0, 5)


def answered(server: Server, path: str, body: dict) -> bytes:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def reading_of(data: bytes, size: int) -> AnswerReader:
    """One piece a second."""
    reading = AnswerReader()
    for second, at in enumerate(range(0, len(data), size), 1):
        reading.feed(data[at : at + size], second)
    return reading


@pytest.mark.parametrize("name", KINDS)
def test_stream_cut_anywhere_gives_the_same_events(server: Server, name):
    path, body = body_of(name)
    data = answered(server, path, body)
    whole, bytewise = reading_of(data, len(data)), reading_of(data, 1)
    for reading in (whole, bytewise):
        assert reading.close() is None
        assert reading.usage["diffusion"]["steps"] == 3
        assert reading.usage["diffusion"]["denoise_ms"] > 0
    assert whole.text == bytewise.text
    assert bytewise.first is not None and bytewise.ended is not None
    assert bytewise.settled is not None and bytewise.draft is not None
    assert bytewise.first <= bytewise.settled <= bytewise.ended <= len(data)
    assert bytewise.first < bytewise.draft <= bytewise.ended
    # a full draft is told before the end where the canvas is told at all
    assert (bytewise.draft < bytewise.settled) == (name in ("trajectories", "delta", "canvases"))


@pytest.mark.parametrize("name", ["completions", "trajectories", "delta", "canvases"])
def test_the_text_is_the_servers(server: Server, name):
    _, plain = body_of("completions")
    del plain["stream"], plain["stream_options"]
    answer = json.loads(answered(server, "/v1/completions", plain))
    data = answered(server, *body_of(name))
    reading = reading_of(data, 100)
    assert reading.text == answer["choices"][0]["text"] and reading.text
    assert reading.finish_reason == answer["choices"][0]["finish_reason"]
    assert reading.usage["completion_tokens"] == answer["usage"]["completion_tokens"]


def test_an_image_is_the_servers(server: Server):
    path, body = body_of("images")
    plain = {k: v for k, v in body.items() if k not in ("stream", "partial_images")}
    image = json.loads(answered(server, path, plain))["data"][0]["b64_json"]
    assert reading_of(answered(server, path, body), 64).text == image
    path, body = body_of("trajectories")
    body |= {"model": "digits", "prompt": "seven"}
    del body["max_tokens"]
    assert reading_of(answered(server, path, body), 64).text == image


@pytest.mark.parametrize("name", KINDS)
def test_what_is_cut_off_is_no_answer(server: Server, name):
    data = answered(server, *body_of(name))
    last = data.rstrip().rfind(b"data:")
    reading = reading_of(data[:last], 50)
    assert reading.close() == "cut" and reading.ended is None


def test_a_stream_without_our_records():
    """As servers of others stream: a role first, no usage, comments between."""
    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        {"choices": [{"index": 0, "delta": {"content": " you"}}], "usage": None},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    reading = AnswerReader()
    for second, event in enumerate(events):
        reading.feed(b": ping\n\ndata: " + json.dumps(event).encode() + b"\n\n", second)
    reading.feed(b"data: [DONE]\n\n", 9)
    assert reading.close() is None and reading.text == "Hi you" and reading.usage == {}
    assert (reading.first, reading.settled, reading.draft, reading.ended) == (0, 1, 3, 9)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"code": "queue_full"}}', "HTTP 429 queue_full"),
        (b'{"error": {"code": null}}', "HTTP 429"),
        (b'{"error": "no"}', "HTTP 429"),
        (b"[]", "HTTP 429"),
        (b"<html>", "HTTP 429"),
        (b"", "HTTP 429"),
    ],
)
def test_statuses_are_told_with_the_servers_code(body, kind):
    assert failure_of_status(429, body) == kind
