"""Guesses: tokens that masks would have become, in the steps of a trajectory that asks for them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.http import BODY, call
from tests.support.trajectory_client import MASK, PATH, records, replayed, steps_of

GUESSES = {"trajectory_guesses": True}
GREEDY = {**BODY, "temperature": 0, **GUESSES}
TOPK = {**GREEDY, "sampler": "topk", "mixing_ratio": 0}


def canvases(steps):
    """The canvas after each step."""
    return [replayed(steps[: n + 1]) for n in range(len(steps))]


@pytest.mark.parametrize(
    "chosen",
    [
        {"sampler": "topk", "mixing_ratio": 0},
        {"sampler": "topk", "mixing_ratio": 0.3, "block_length": 10, "refine_scope": "block"},
        {"sampler": "threshold", "confidence_threshold": 0.5, "steps": 12},
        {"sampler": "dream", "alg": "maskgit_plus"},
    ],
)
def test_guesses_are_of_masks_that_stay_and_change_no_token(served, chosen):
    asked = {**GREEDY, **chosen}
    told = records(served, asked)
    plain = records(served, {**asked, "trajectory_guesses": False})
    assert told[-1]["data"]["choices"] == plain[-1]["data"]["choices"]
    assert not any("guesses" in step for step in steps_of(plain))
    assert "trajectory_guesses" not in told[0]["data"]["request"]
    first, *steps = steps_of(told)
    assert "guesses" not in first
    several = 0
    for step, canvas in zip(steps, canvases([first, *steps])[1:], strict=True):
        guesses = step["guesses"]
        assert set(guesses) == {"pos", "ids", "texts", "conf"}
        assert len({len(column) for column in guesses.values()}) == 1
        assert guesses["pos"] == sorted(guesses["pos"])
        assert all(canvas[at] == MASK for at in guesses["pos"])
        assert MASK not in guesses["ids"] and all(0 < p <= 1 for p in guesses["conf"])
        several += len(guesses["pos"]) > 1
    assert several >= 2


def test_masks_that_are_filled_are_those_with_the_surest_guesses(served):
    first, *steps = steps_of(records(served, TOPK))
    for step, canvas in zip(steps, canvases([first, *steps])[1:], strict=True):
        filled = [change["conf"] for change in step["changes"] if change["op"] == "unmask"]
        assert step["guesses"]["pos"] == [at for at, id_ in enumerate(canvas) if id_ == MASK]
        assert min(filled) >= max(step["guesses"]["conf"], default=0)


def test_guesses_lie_within_the_active_block(served):
    steps = steps_of(records(served, {**TOPK, "block_length": 10}))
    seen = set()
    for step in steps[1:]:
        first = 5 + 10 * step["block"]
        assert all(first <= at < first + 10 for at in step["guesses"]["pos"])
        seen |= {step["block"]} if step["guesses"]["pos"] else set()
    assert seen == {0, 1, 2}


def test_a_request_in_company_has_its_own_guesses_and_others_have_none(served):
    alone = steps_of(records(served, {**TOPK, "steps": 30}))
    bodies = [{**TOPK, "steps": 30, "trajectory_guesses": i % 2 == 0} for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        runs = [steps_of(told) for told in pool.map(lambda body: records(served, body), bodies)]
    for body, steps in zip(bodies, runs, strict=True):
        found = [step.get("guesses") for step in steps]
        if body["trajectory_guesses"]:
            assert found == [step.get("guesses") for step in alone]
        else:
            assert found == [None] * len(steps)


def test_guesses_stand_beside_log_probabilities(served):
    told = records(served, {**TOPK, "logprobs": 2})
    assert all(step["guesses"]["pos"] for step in steps_of(told)[1:-1])
    assert told[-1]["data"]["choices"][0]["logprobs"]["token_logprobs"]


@pytest.mark.parametrize("sampler", ["ancestral", "gidd", "remdm"])
def test_samplers_that_read_no_open_masks_refuse_guesses(served, sampler):
    response, text = call(served, "POST", PATH, {**BODY, "sampler": sampler, **GUESSES})
    error = json.loads(text)["error"]
    assert response.status == 400 and error["param"] == "trajectory_guesses"
    assert sampler in error["message"]
    _, text = call(served, "GET", "/v1/models")
    (model,) = json.loads(text)["data"]
    assert sampler not in model["diffusion"]["fields"]["trajectory_guesses"]
