"""Networks of the block-causal families along whole decoding runs of the official code.

A step's logits belong to its block, after the finished blocks before it. The official samplers of
SDAR and Fast-dLLM v2 compute them against a K/V cache; here the whole sequence is run.
"""

from __future__ import annotations

import pytest
import torch

from models.checkpoints.load import load_network
from tests.support.published import close, run, with_blocks, write_folder

RUNS = {
    "sdar_traj_greedy": "sdar_tiny",
    "sdar_traj_sampling": "sdar_tiny",
    "sdar_moe_traj": "sdar_moe_tiny",
    "llada2_traj": "llada2_tiny",
    "llada2_traj_b32": "llada2_tiny",
    "llada21_traj": "llada2_tiny",
    "fast_dllm_v2_traj": "fast_dllm_v2_tiny",
}
SUB_BLOCK = 8
"""Of Fast-dLLM v2: its steps have the logits of the first of these that holds a mask."""


@pytest.mark.parametrize("name", RUNS)
def test_logits_along_official_runs_are_the_official_ones(golden, tmp_path, name):
    weights, file = golden(f"families/{RUNS[name]}"), golden(f"families/{name}")
    network = load_network(write_folder(tmp_path / "checkpoint", weights))
    mask, steps = weights.meta["config"]["mask_token_id"], 0
    for _, t in file.cases():
        length = t["step_before"].shape[1]
        with_blocks(network, length)
        text = t["final"] if "final" in t else t["output"]
        rows = list(zip(t["step_block"].tolist(), t["step_before"], t["step_logits"], strict=True))
        canvases = [torch.cat((text[: block * length], before)) for block, before, _ in rows]
        for found, (_, before, logits) in zip(run(network, *canvases), rows, strict=True):
            own = found[-length:]
            if len(logits) < length:
                first = int((before == mask).nonzero()[0]) // SUB_BLOCK * SUB_BLOCK
                own = own[first : first + SUB_BLOCK]
                if name == "fast_dllm_v2_traj" and first == 0:  # it is read of the block before
                    own, logits = own[1:], logits[1:]
            close(own, logits)
            steps += 1
    assert steps >= 29
