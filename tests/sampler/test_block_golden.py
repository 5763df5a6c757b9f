"""Official decoding runs of SDAR and LLaDA2, state by state, on kept keys and values."""

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
}


def cases() -> list:
    found = []
    for name in RUNS:
        for case, meta in load_golden(f"families/{name}").meta["cases"].items():
            greedy = meta.get("temperature", 0) == 0 or meta.get("top_k") == 1
            at_least_one = meta.get("num_to_transfer", 1) == 1
            if (
                greedy
                and at_least_one
                and meta.get("strategy") not in ("sequential", "entropy_bounded")
            ):
                found.append(pytest.param(name, case, id=f"{name} {case}"))
    return found


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
    positions = -(-(len(prompt) + meta["gen_length"]) // length) * length
    blocks = positions // length - len(prompt) // length
    each = meta.get("denoising_steps") or meta.get("steps") or length
    editing = {}
    if "edit_threshold" in meta:
        editing = {
            "editing_threshold": meta["edit_threshold"],
            "post_steps": meta["max_post_steps"],
        }
        each += meta["max_post_steps"]
    params = make_params(
        "threshold",
        confidence_threshold=meta.get("threshold") or 1.0,
        block_length=length,
        block_aligned=True,
        steps=blocks * each,
        temperature=0.0,
        **editing,
    )
    free = positions - len(prompt)
    canvas = [*prompt, *[0] * free], [False] * len(prompt) + [True] * free, params
    sampler, batch = begun(network, weights.meta["config"]["mask_token_id"], [canvas])
    results = [r for r in stepped(network, sampler, batch) if r.head_rows]
    found = [r.batch.tokens.view(-1, length) for r in results]
    rows = zip(
        *(file.tensors[f"{case}.step_{n}"].tolist() for n in ("block", "before", "after")),
        strict=True,
    )
    # a step that edits nothing ends a block; where there are no edits it is not taken
    expected = [(b, after) for b, before, after in rows if editing or before != after]
    assert len(expected) <= len(found)
    for state, (block, after) in zip(found, expected, strict=False):
        assert state[block].tolist() == after
