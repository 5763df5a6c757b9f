"""Paths, methods, codings and events in the forms that clients write and read."""

from __future__ import annotations

import gzip
import json

import pytest

from server.http.json_response import one_line
from tests.support.http import BODY, call

LINE_ENDS = "a\u2028b\u2029c\x85d"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version", "/v1/models"])
def test_head_of_a_route_has_the_headers_of_get(served, path):
    got, _ = call(served, "GET", path)
    response, body = call(served, "HEAD", path)
    assert response.status == 200 and body == b""
    assert response.headers["Content-Type"] == got.headers["Content-Type"]


def test_head_of_a_route_without_get_is_405(served):
    assert call(served, "HEAD", "/v1/completions")[0].status == 405
    assert call(served, "HEAD", "/v1/models/none")[0].status == 404


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models", "//v1//models/"])
def test_slashes_too_many_are_dropped_without_a_redirect(served, path):
    response, text = call(served, "GET", path)
    assert response.status == 200 and json.loads(text)["object"] == "list"
    path = path.replace("models", "completions")
    assert call(served, "POST", path, BODY, {"Content-Type": "application/json"})[0].status == 200


@pytest.mark.parametrize(
    "path",
    ["/metrics/", "//metrics", "//evil.example/", "/docs/", "/page/", "/v1/models//"],
)
def test_slashes_elsewhere_lead_nowhere(served, path):
    response, _ = call(served, "GET", path, headers={"X-Forwarded-Proto": "https"})
    assert response.status == 404 and "Location" not in response.headers


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/", "/v1/completions"])
def test_types_of_all_answers_are_not_to_be_guessed(served, path):
    response, _ = call(served, "GET", path)
    assert response.headers.get_all("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize("coding", ["gzip", "identity, br", "x"])
def test_compressed_body_is_415(served, coding):
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    body = gzip.compress(json.dumps(BODY).encode())
    response, text = call(served, "POST", "/v1/completions", body, headers)
    assert response.status == 415 and response.headers["Accept-Encoding"] == "identity"
    assert json.loads(text)["error"]["param"] == "Content-Encoding"
    headers["Content-Encoding"] = "Identity"
    assert call(served, "POST", "/v1/completions", BODY, headers)[0].status == 200


def test_byte_order_mark_in_front_of_a_body_is_dropped(served):
    body = b"\xef\xbb\xbf" + json.dumps(BODY).encode()
    assert call(served, "POST", "/v1/completions", body)[0].status == 200
    assert call(served, "POST", "/v1/completions", b"\xef\xbb\xbf" + body)[0].status == 400


@pytest.mark.parametrize(
    ("path", "more"),
    [("/v1/completions", {"stream": True, "echo": True}), ("/v1/diffusion/trajectories", {})],
)
def test_events_end_in_two_line_feeds_and_hold_no_other_line_end(served, path, more):
    body = {**BODY, "prompt": LINE_ENDS, **more}
    response, raw = call(served, "POST", path, body)
    assert response.status == 200 and "keep-alive" not in str(response.headers).lower()
    assert b"\r" not in raw and raw.endswith(b"\n\n")
    blocks = raw.decode().split("\n\n")
    assert all(len(block.splitlines()) == block.count("\n") + 1 for block in blocks[:-1])
    assert "\\u2028" in raw.decode() and "\\u0085" in raw.decode()


def test_lines_of_json_hold_no_other_line_end(served):
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    body = {**BODY, "prompt": LINE_ENDS}
    _, raw = call(served, "POST", "/v1/diffusion/trajectories", body, headers)
    lines = raw.decode().splitlines()
    assert lines == raw.decode().removesuffix("\n").split("\n")
    assert LINE_ENDS in json.dumps([json.loads(line) for line in lines], ensure_ascii=False)


def test_escaped_line_ends_are_the_same_json():
    text = json.dumps({"x": LINE_ENDS}, ensure_ascii=False)
    assert one_line(text).isascii() and json.loads(one_line(text)) == {"x": LINE_ENDS}
