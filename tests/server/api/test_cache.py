"""The fields of caches over HTTP."""

from __future__ import annotations

import json

import pytest

from tests.support.http import call, events, metric
from tests.support.serving import make_engine, run_server, settings_of

TOPK = {"sampler": "topk", "mixing_ratio": 0.0, "block_length": 8, "steps": 16, "temperature": 0}
BODY = {"prompt": "Once upon a time", "max_tokens": 32, "seed": 3, "ignore_eos": True, **TOPK}


@pytest.fixture(scope="module")
def small(tiny):
    limits = {"cache_positions": 40}
    yield from run_server(make_engine(tiny, **limits), settings_of(**limits))


def text_of(served, **fields) -> str:
    response, text = call(served, "POST", "/v1/completions", {**BODY, **fields})
    assert response.status == 200, text
    return json.loads(text)["choices"][0]["text"]


@pytest.mark.parametrize("mode", ["prompt", "prefix", "dual", "vicinity"])
def test_cache_of_interval_one_gives_the_text_of_none(small, mode):
    assert text_of(small, cache=mode, cache_interval=1) == text_of(small)


def test_cached_request_is_streamed_with_its_steps(small):
    before = metric(small, "xdlm_positions_kept_total")
    body = {**BODY, "cache": "dual", "stream": True, "trajectory": "delta"}
    _, text = call(small, "POST", "/v1/completions", body)
    *chunks, done = events(text.decode())
    pieces = [json.loads(c)["choices"][0]["text"] for c in chunks if json.loads(c)["choices"]]
    assert done == "[DONE]" and "".join(pieces) == text_of(small, cache="dual")
    assert metric(small, "xdlm_positions_kept_total") > before


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"cache": "dual", "max_tokens": 64}, "cache", "69 positions for this request"),
        ({"cache": "dual", "guidance_scale": 2}, "cache", "74 positions for this request"),
        ({"cache": "always"}, "cache", "none"),
        ({"cache_interval": 4}, "cache_interval", "needs a cache"),
        ({"cache": "dual", "cache_interval": 0}, "cache_interval", "1"),
        ({"cache": "dual", "cache_vicinity": 8}, "cache_vicinity", "needs cache vicinity"),
        ({"cache": "dual", "compat": "official"}, "cache", "not for compat official"),
    ],
)
def test_cache_that_cannot_be_had_is_a_400_naming_the_field(small, fields, param, told):
    response, text = call(small, "POST", "/v1/completions", {**BODY, **fields})
    assert response.status in (400, 422), text
    error = json.loads(text)["error"]
    assert error["param"] == param and told in error["message"], error
