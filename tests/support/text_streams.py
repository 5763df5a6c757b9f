"""Streams of completions by every sampler."""

from __future__ import annotations

import json

from tests.support.http import call, events

TOPK = {"sampler": "topk", "mixing_ratio": 0.2, "block_length": 10, "refine_scope": "block"}

SAMPLERS = [
    {},
    TOPK,
    {"sampler": "threshold", "confidence_threshold": 0.02},
    {"sampler": "gidd", "p_uniform": 0.2},
    {"sampler": "remdm", "remdm_schedule": "loop", "remdm_eta": 0.1},
]


def streamed(served, path="/v1/completions", **body) -> list[dict]:
    response, text = call(served, "POST", path, {**body, "stream": True})
    assert response.status == 200, text
    *chunks, end = events(text.decode())
    assert end == "[DONE]"
    return [json.loads(c) for c in chunks]
