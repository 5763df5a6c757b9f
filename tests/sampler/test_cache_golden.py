"""Runs of Fast-dLLM, of its port in dllm, and of dInfer with their caches, state by state."""

from __future__ import annotations

import pytest
import torch

from models.checkpoints.load import load_network
from models.families.decoder import Decoder
from models.families.llada import LLaDA
from models.families.llada_config import LLaDAConfig
from sampler import make_params
from tests.conftest import load_golden
from tests.support.caching import begun, stepped
from tests.support.effort import count
from tests.support.published import write_folder

MASK = 63
FILES = ("none", "prefix", "dual")


def network_of(scale: float) -> LLaDA:
    weights = load_golden("llada_tiny_kv4")
    network = LLaDA(LLaDAConfig.from_dict(weights.meta["config"]))
    state = {k.removeprefix("weights."): t for k, t in weights.tensors.items() if "weights." in k}
    network.load_state_dict(state)
    with torch.no_grad():
        dict(network.named_parameters())["model.transformer.ff_out.weight"].mul_(scale)
    network.reserve(512)
    return network.eval()


def states_of(case: dict, prompt: list[int], **params) -> list[list[int]]:
    network = network_of(case.get("head_scale", 1.0))
    length = case["gen_length"]
    canvas = [*prompt, *[0] * length], [False] * len(prompt) + [True] * length
    chosen = make_params(temperature=0.0, block_length=case["block_length"], **params)
    sampler, batch = begun(network, MASK, [(*canvas, chosen)])
    found = [batch.tokens.tolist()]
    found += [r.batch.tokens.tolist() for r in stepped(network, sampler, batch) if r.head_rows]
    return found


def rule_of(case: dict) -> dict:
    if "threshold" in case:
        rule = {"confidence_threshold": case["threshold"]}
    elif "factor" in case:
        rule = {"confidence_factor": case["factor"]}
    else:
        return {"sampler": "topk", "mixing_ratio": 0.0, "steps": case["steps"]}
    return {"sampler": "threshold", "steps": case["gen_length"], **rule}


def cases(mode: str) -> list:
    meta = load_golden(f"families/fastdllm_llada_{mode}").meta["cases"]
    # elsewhere the mask's own probability takes part in the confidence, or noise of another kind
    same = [n for n, case in meta.items() if case["suppress_mask"] and "temperature" not in case]
    return [pytest.param(mode, name, id=f"{mode} {name}") for name in same]


RUNS = [
    run
    for i, mode in enumerate(FILES)
    for j, run in enumerate(cases(mode))
    if (i + j) % count(len(FILES), 1) == 0
]
"""Each run with one mode in turn in ``make test``."""


@pytest.mark.parametrize(("mode", "name"), RUNS)
def test_fast_dllm_runs_state_by_state(mode, name):
    file = load_golden(f"families/fastdllm_llada_{mode}")
    case = file.meta["cases"][name]
    prompt = file.tensors[f"{name}.prompt"].tolist()
    expected = file.tensors[f"{name}.x_traj"].tolist()
    found = states_of(case, prompt, cache=mode, **rule_of(case))
    wrong = case.get("steps_where_the_last_mask_is_filled_against_the_rule", [])
    if wrong:  # from there on the published loop is a step ahead
        assert found[: wrong[0] + 1] == expected[: wrong[0] + 1]
    else:
        assert found == expected


@pytest.mark.parametrize("name", [f"c0{i}" for i in range(9)])
def test_runs_by_factor_of_the_port_state_by_state(name):
    file = load_golden("families/fastdllm_llada_factor")
    case, prompt = file.meta["cases"][name], file.tensors[f"{name}.prompt"].tolist()
    found = states_of(case, prompt, cache=case["mode"], **rule_of(case))
    assert found == file.tensors[f"{name}.x_traj"].tolist()


def dream_runs() -> list:
    meta = load_golden("families/dream_fastdllm").meta["cases"]
    greedy = [(n, case) for n, case in meta.items() if case["temperature"] == 0]
    return [pytest.param(n, id=f"{n} {case['mode']} {case['alg']}") for n, case in greedy]


@pytest.mark.parametrize("name", dream_runs())
def test_fast_dllm_runs_of_dream_state_by_state(tmp_path, name):
    file = load_golden("families/dream_fastdllm")
    case = file.meta["cases"][name]
    network = load_network(write_folder(tmp_path / "dream", load_golden("families/dream_tiny")))
    assert isinstance(network, Decoder)
    with torch.no_grad():
        network.lm_head.weight.mul_(case.get("head_scale", 1.0))
    network.reserve(256)
    chosen = {"sampler": "dream", "alg": case["alg"], "steps": case["steps"]}
    if case["alg"] == "confidence_threshold":
        chosen = {"sampler": "threshold", "steps": case["gen_length"]}
        chosen["confidence_threshold"] = case["threshold"]
    blocks = {"block_length": case["block_length"], "first_alone": True}
    params = make_params(temperature=0.0, cache=case["mode"], **blocks, **chosen)
    length, expected = case["gen_length"], file.tensors[f"{name}.x_traj"]
    for row, prompt in enumerate(file.tensors[f"{name}.prompt"].tolist()):
        canvas = [*prompt, *[0] * length], [False] * len(prompt) + [True] * length, params
        sampler, batch = begun(network, 62, [canvas])
        found = [batch.tokens.tolist()]
        found += [r.batch.tokens.tolist() for r in stepped(network, sampler, batch) if r.head_rows]
        assert found == expected[:, row].tolist()


@pytest.mark.parametrize("name", ["c00", "c02", "c04", "c09"])
def test_dinfer_runs_state_by_state(name):
    file = load_golden("families/dinfer_llada_vicinity")
    case = file.meta["cases"][name]
    prompt = file.tensors[f"{name}.prompt"].tolist()
    cache = {"cache": case["method"], "cache_vicinity": case.get("prefix_look", 16)}
    found = states_of(case, prompt, **cache, **rule_of(case))
    expected = file.tensors[f"{name}.x_traj"].tolist()
    assert found[: len(expected)] == expected  # its runs end with the block of an end token
