"""Defaults of single samplers, in ``generation_config.json``."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sampler.samplers.topk import TopKParams
from server.engine.constrained_params import constrained_params
from server.engine.request_params import ANY_KIND, sampling_params
from tests.support.http import call
from tests.support.serving import TINY_DEFAULTS, make_engine, run_server, settings_of

OF_TOPK = {"steps": 20, "temperature": 0.7, "logits_eos_inf": True, "compat": "official", "seed": 5}
DEFAULTS = {**TINY_DEFAULTS, "by_sampler": {"topk": OF_TOPK}}


@pytest.fixture(scope="module")
def served(tiny):
    engine = make_engine(replace(tiny, defaults=DEFAULTS))
    yield from run_server(engine, settings_of(max_steps=12))


def answer_to(served, **fields) -> dict:
    response, text = call(served, "POST", "/v1/completions", {"max_tokens": 24, **fields})
    assert response.status == 200, text
    return json.loads(text)


def test_they_go_before_those_of_all_and_after_the_request():
    heat = [
        sampling_params(DEFAULTS, chosen).temperature
        for chosen in ({}, {"sampler": "topk"}, {"sampler": "topk", "temperature": 0.5})
    ]
    assert heat == [0.3, 0.7, 0.5]


def test_they_give_way_to_a_constraint():
    """The default sampler cannot keep to a language, so topk is taken, with its own defaults."""
    params = constrained_params(DEFAULTS, {}, ANY_KIND, "guided_regex")
    assert (params.sampler, params.temperature) == ("topk", 0.7)
    assert isinstance(params.own, TopKParams)
    assert params.own.compat == "none" and not params.own.logits_eos_inf


def test_they_stay_below_the_limit_of_steps(served):
    found = answer_to(served, prompt="Tom", sampler="topk", compat="none")
    assert found["usage"]["diffusion"]["steps"] == 12 and found["seed"] == 5


def test_a_seed_of_theirs_is_that_of_all_prompts(served):
    found = answer_to(served, prompt=["Tom", "Tom"], sampler="topk", compat="none")
    assert found["seed"] == 5 and len({choice["text"] for choice in found["choices"]}) == 1
