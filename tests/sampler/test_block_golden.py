"""Official decoding runs of SDAR, LLaDA2 and Fast-dLLM v2, and those of engines that serve them,
state by state, on kept keys and values.
"""

from __future__ import annotations

import pytest

from models.checkpoints.load import load_network
from models.families.decoder import Decoder
from sampler import make_params
from tests.conftest import load_golden
from tests.support.caching import begun, stepped
from tests.support.published import with_blocks, write_folder

RUNS = {
    "sdar_traj_greedy": "sdar_tiny",
    "sdar_moe_traj": "sdar_moe_tiny",
    "llada2_traj": "llada2_tiny",
    "llada2_traj_b32": "llada2_tiny",
    "llada21_traj": "llada2_tiny",
    "llada21_traj_engines": "llada2_tiny",
    "sdar_traj_engines": "sdar_tiny",
    "fast_dllm_v2_traj": "fast_dllm_v2_tiny",
}
STRATEGIES = {
    "static": "low_confidence_static",
    "dynamic": "low_confidence_dynamic",
    "sequential": "sequential",
}


def cases() -> list:
    found = []
    for name in RUNS:
        for case, meta in load_golden(f"families/{name}").meta["cases"].items():
            greedy = meta.get("temperature", 0) == 0 or meta.get("top_k") == 1
            if greedy and not meta.get("penalty_lambda"):
                found.append(pytest.param(name, case, id=f"{name} {case}"))
    return found


def chosen(meta: dict, blocks: int) -> dict:
    """The parameters of an official run of a number of blocks."""
    length = meta["block_length"]
    each = meta.get("denoising_steps") or meta.get("steps") or length
    found = {"confidence_threshold": meta.get("threshold") or 1.0}
    if "edit_threshold" in meta:
        found |= {
            "editing_threshold": meta["edit_threshold"],
            "post_steps": meta["max_post_steps"],
            "num_to_transfer": meta.get("num_to_transfer", 1),
        }
        each = length + meta["max_post_steps"]
    if "small_block_length" in meta:
        found |= {"sub_block_length": meta["small_block_length"], "first_alone": True}
        each = 2 * length
    if meta.get("sampler") == "lmdeploy":
        found["remasking_strategy"] = STRATEGIES[meta["strategy"]]
    return found | {"steps": blocks * each, "block_length": length, "block_aligned": True}


@pytest.mark.parametrize(("name", "case"), cases())
def test_official_runs_state_by_state(tmp_path, name, case):
    weights, file = load_golden(f"families/{RUNS[name]}"), load_golden(f"families/{name}")
    meta = file.meta["cases"][case]
    network = load_network(write_folder(tmp_path / "checkpoint", weights))
    assert isinstance(network, Decoder)
    length = meta["block_length"]
    with_blocks(network, length)
    network.reserve(512)
    prompt = file.tensors[f"{case}.prompt"].tolist()
    new = meta.get("gen_length") or meta["max_new_tokens"]
    positions = -(-(len(prompt) + new) // length) * length
    blocks = positions // length - len(prompt) // length
    params = make_params("threshold", temperature=0.0, **chosen(meta, blocks))
    free = positions - len(prompt)
    canvas = [*prompt, *[0] * free], [False] * len(prompt) + [True] * free, params
    mask = weights.meta["config"]["mask_token_id"]
    sampler, batch = begun(network, mask, [canvas])
    results = [r for r in stepped(network, sampler, batch) if r.head_rows]
    if meta["sampler"] == "sglang":  # it takes a step more where edits are over
        results = [r for r in results if len(r.change.rows)]
    found = [r.batch.tokens.view(-1, length) for r in results]
    rows = zip(
        *(file.tensors[f"{case}.step_{n}"].tolist() for n in ("block", "before", "after")),
        strict=True,
    )
    # a step that edits nothing ends a block; where there are no edits it is not taken
    edits = "edit_threshold" in meta and meta["sampler"] == "hf"
    expected = [(b, after) for b, before, after in rows if edits or before != after]
    if meta.get(
        "small_block_length"
    ):  # there the next token comes with the pass that keeps a block
        begun_alone = [
            (state[block, 0] != mask) & (state[block, 1:] == mask).all()
            for state in found
            for block in [int((state == mask).any(1).long().argmax())]
        ]
        found = [state for state, alone in zip(found, begun_alone, strict=True) if not alone]
    assert len(expected) <= len(found)
    for state, (block, after) in zip(found, expected, strict=False):
        assert state[block].tolist() == after
