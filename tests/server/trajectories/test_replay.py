"""Replaying any stream of diffs gives the final canvas: requests of all kinds."""

from __future__ import annotations

import concurrent.futures
import json
import random
from typing import Any

from sampler import READERS
from tests.support.effort import count
from tests.support.http import call, events
from tests.support.trajectory_client import MASK, Follower, replayed, steps_of

REQUESTS = count(60, 1000)
WORDS = ["Once", " upon", " a time", " Tom", " and", " the", " dog", ".", ""]
CHOICES: dict[str, dict[str, list[Any]]] = {
    "ancestral": {
        "mixing_ratio": [0.0, 0.1, 0.5, 1.0],
        "noise_removal": ["ancestral", "greedy", "none"],
    },
    "topk": {
        "mixing_ratio": [0.0, 0.1, 0.5, 0.9],
        "refine_scope": ["generated", "block"],
        "logits_eos_inf": [False, True],
        "confidence_eos_eot_inf": [False, True],
    },
    "threshold": {
        "confidence_threshold": [0.0, 0.02, 0.1, 1.0],
        "entropy_bound": [None, None, 5.0],
        "logits_eos_inf": [False, True],
    },
    "gidd": {
        "p_uniform": [0.0, 0.1, 0.6],
        "noise_removal": ["ancestral", "greedy", "none"],
    },
    "remdm": {
        "remdm_schedule": ["cap", "rescale", "loop"],
        "remdm_eta": [None, 0.0, 0.3, 1.0],
        "noise_removal": ["ancestral", "greedy", "none"],
    },
    "dream": {
        "alg": ["entropy", "maskgit_plus", "topk_margin", "origin"],
        "eps": [0.001, 0.3],
    },
}


def random_body(dice: random.Random) -> dict[str, Any]:
    """A request of which every field is drawn."""
    sampler = dice.choice(list(CHOICES))
    body: dict[str, Any] = {
        "sampler": sampler,
        "steps": dice.randint(1, 12),
        "max_tokens": dice.randint(1, 30),
        "seed": dice.getrandbits(63),
        "n": dice.choice([1, 1, 2]),
        "temperature": dice.choice([0.0, 0.3, 1.0, 1.7]),
        "top_p": dice.choice([1.0] * 19 + [0.9]),  # a nucleus takes most of the time
        "guidance_scale": dice.choice([1.0, 1.0, 1.0, 2.0]),
        "suffix": dice.choice(["", "", " The end."]),
        "logprobs": dice.choice([None, None, 0, 2]),
        "stop": dice.choice([None, None, ["e"], [" the", "."]]),
        "latency_budget_ms": dice.choice([None] * 19 + [60]),
    }
    body |= {name: dice.choice(values) for name, values in CHOICES[sampler].items()}
    body["prompt"] = dice.choice(WORDS) + dice.choice(WORDS)
    if dice.random() < 0.25:
        ids = [dice.choice([dice.randrange(4400), MASK]) for _ in range(dice.randint(1, 30))]
        body |= {"prompt": [*ids, MASK], "infill": True, "max_tokens": dice.choice([0, 0, 9])}
    if sampler in READERS["block_length"] and dice.random() < 0.5:
        most = 41 + body["max_tokens"]  # positions to fill, and a few more
        body["block_length"] = -(-most // dice.randint(1, body["steps"]))
    if sampler == "topk" and body["mixing_ratio"] == 0.0:
        body["remasking"] = dice.choice(["low_confidence", "random"])
    if sampler == "topk" and dice.random() < 0.2:
        body["topk_uniform"] = [dice.randrange(9) for _ in range(body["steps"])]
        body.pop("remasking", None)
    return body


def recorded(served, body: dict[str, Any]) -> list[dict[str, Any]]:
    follower = Follower(served, body=body, Accept="application/x-ndjson")
    text = follower.read()
    assert follower.status == 200, (text, body)
    return [json.loads(line) for line in text.splitlines()]


def streamed(served, body: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Records of a completion's stream, each with its choice."""
    asked = {**body, "stream": True, "trajectory": "delta"}
    _, text = call(served, "POST", "/v1/completions", asked)
    *chunks, end = events(text.decode())
    assert end == "[DONE]"
    found = [json.loads(chunk) for chunk in chunks]
    return [(c["choices"][0]["index"], c["diffusion"]) for c in found if "diffusion" in c]


def check(served, number: int) -> set[tuple[str, str]]:
    """Replay one request's streams; what its changes were."""
    body = random_body(random.Random(number))
    told = recorded(served, body)
    assert told[-1]["event"] == "diffusion.completed", told[-1]
    choices = told[-1]["data"]["choices"]
    assert [c["index"] for c in choices] == list(range(body["n"]))
    for choice in choices:
        assert replayed(steps_of(told, choice["index"])) == choice["ids"], body
    if number % 5 == 0 and body["latency_budget_ms"] is None:
        pieces = streamed(served, body)
        for choice in choices:
            mine = [step for index, step in pieces if index == choice["index"]]
            # a stop string ends a run between any two steps: the canvas behind it may differ
            if not body["stop"]:
                assert replayed(mine, merged=True) == choice["ids"], body
            else:
                replayed(mine, merged=True)
    return {
        (body["sampler"], change["op"])
        for r in told
        if r["event"] == "diffusion.step"
        for change in r["data"]["changes"]
    }


def test_runs_of_all_kinds_replay_to_their_final_canvases(served):
    seen: set[tuple[str, str]] = set()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for kinds in pool.map(lambda number: check(served, number), range(REQUESTS)):
            seen |= kinds
    assert seen == {
        ("ancestral", "unmask"),
        ("ancestral", "refine"),
        ("ancestral", "remask"),
        ("topk", "unmask"),
        ("topk", "refine"),
        ("threshold", "unmask"),
        ("dream", "unmask"),
        ("gidd", "unmask"),
        ("gidd", "refine"),
        ("gidd", "remask"),
        ("remdm", "unmask"),
        ("remdm", "remask"),
    }
