"""SDAR, SDAR-MoE, LLaDA2 and Fast-dLLM v2 against their official code, and the published sizes."""

from __future__ import annotations

import json

import pytest
import torch

from models.checkpoints.convert import convert
from models.checkpoints.load import (
    inspect_checkpoint,
    load_network,
)
from models.errors import CheckpointError
from models.registry import FAMILIES, build
from tests.support.published import (
    check_blocks_see_no_later_ones,
    check_forwards,
    close,
    expanded,
    manifest,
    run,
    same_bits_in_company,
    stored_shapes,
    with_blocks,
    write_folder,
)

UNSHIFTED = {"sdar": "sdar_tiny", "sdar_moe": "sdar_moe_tiny", "llada2_moe": "llada2_tiny"}
TINY = {**UNSHIFTED, "fast_dllm_v2": "fast_dllm_v2_tiny"}
FACTS = {
    "sdar": (80, 75, 256, 4),
    "sdar_moe": (80, 75, 256, 4),
    "llada2_moe": (95, 92, 256, 32),
    "fast_dllm_v2": (85, 82, 256, 32),
}


@pytest.fixture(scope="module")
def folders(golden, tmp_path_factory):
    place = tmp_path_factory.mktemp("block")
    return {
        name: write_folder(place / name, golden(f"families/{file}")) for name, file in TINY.items()
    }


@pytest.mark.parametrize("family", UNSHIFTED)
def test_logits_are_the_official_ones(folders, golden, family):
    tensors = golden(f"families/{TINY[family]}").tensors
    check_forwards(load_network(folders[family]), tensors)


def test_fast_dllm_s_logits_are_the_official_ones_of_the_position_before(folders, golden):
    t, network = golden("families/fast_dllm_v2_tiny").tensors, load_network(folders["fast_dllm_v2"])
    for i in range(3):
        length = int(t[f"f{i}.block_length"])
        (found,) = run(with_blocks(network, length), t[f"f{i}.input_ids"])
        close(found, t[f"f{i}.logits"][(torch.arange(len(found)) - 1).clamp(min=0)])
        block = t[f"f{i}.block_logits_shifted"]
        close(found[1 - len(block) :], block[1:])  # its first row is read of the block before


@pytest.mark.parametrize("family", TINY)
def test_sequences_of_different_lengths_share_a_pass(folders, golden, family):
    t, network = golden(f"families/{TINY[family]}").tensors, load_network(folders[family])
    with_blocks(network, int(t["f0.block_length"]))
    ids = [t["f0.input_ids"], t["f1.input_ids"], t["f2.input_ids"]]
    for found, one in zip(run(network, *ids), ids, strict=True):
        close(found, run(network, one)[0])


@pytest.mark.parametrize("family", TINY)
def test_a_sequence_has_the_same_bits_in_any_company(tmp_path, family):
    same_bits_in_company(tmp_path / "random", family)


@pytest.mark.parametrize("family", TINY)
def test_a_block_sees_its_own_and_earlier_blocks_alone(folders, family):
    check_blocks_see_no_later_ones(load_network(folders[family]), 8)


@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_bfloat16_stays_close_without_experts(folders, golden, family):
    t, network = golden(f"families/{TINY[family]}").tensors, load_network(folders[family])
    network = network.to(torch.bfloat16)
    network.ready(torch.device("cpu"))
    (found,) = run(with_blocks(network, int(t["f0.block_length"])), t["f0.input_ids"])
    theirs = t["f0.logits_bf16"].float()
    if family == "fast_dllm_v2":
        theirs = theirs[(torch.arange(len(found)) - 1).clamp(min=0)]
    assert (found.float() - theirs).abs().max() < 0.4


@pytest.mark.parametrize("family", TINY)
def test_facts_and_defaults_are_told(folders, family):
    info, defaults = inspect_checkpoint(folders[family])
    assert (info.mask_id, info.eos_id, info.max_length, info.block_length) == FACTS[family]
    assert info.family == family and defaults["mixing_ratio"] == 0.0
    assert defaults["block_length"] == info.block_length
    assert defaults["block_aligned"]


@pytest.mark.parametrize("family", TINY)
def test_conversion_keeps_names_weights_and_config(folders, tmp_path, golden, family):
    info = convert(folders[family], tmp_path / "made")
    tensors = golden(f"families/{TINY[family]}").tensors
    ids = tensors["f0.input_ids"]
    one, two = load_network(folders[family]), load_network(tmp_path / "made")
    assert torch.equal(run(one, ids)[0], run(two, ids)[0])
    stored = {n: list(t.shape) for n, t in tensors.items() if n.startswith("weights.")}
    assert {f"weights.{n}": list(t.shape) for n, t in two.stored().items()} == stored
    assert info.parameters == sum(t.numel() for t in one.stored().values())
    places = (tmp_path / "made", folders[family])
    ours, theirs = (json.loads((place / "config.json").read_text()) for place in places)
    assert ours == theirs


PUBLISHED = {
    "sdar_1.7b_chat": ("sdar", "sdar-1.7b"),
    "sdar_4b_chat": ("sdar", "sdar-4b"),
    "sdar_8b_chat": ("sdar", "sdar-8b"),
    "sdar_30b_a3b": ("sdar_moe", "sdar-30b-a3b"),
    "llada2.0_mini": ("llada2_moe", "llada2-mini"),
    "llada2.1_mini": ("llada2_moe", "llada2-mini"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_size_has_the_published_tensors(name):
    known = manifest(name)
    expected = expanded(known)
    assert len(expected) == known["tensors"]
    assert stored_shapes(known["config"]) == expected
    family, shape = PUBLISHED[name]
    spec = FAMILIES[family]
    ours = {"model_type": spec.published_type, **spec.random_config, **spec.shapes[shape]}
    assert stored_shapes(ours) == expected
    network = build(known["config"], None).network
    assert sum(t.numel() for t in network.stored().values()) == known["parameters"]


REFUSED = {
    "sdar": [
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"block_size": 0}, "block_size must be a positive integer"),
        ({"block_size": "4"}, "block_size"),
        ({"num_hidden_layers": 2**24}, "num_hidden_layers is 16777216: more than there are"),
        ({"head_dim": 15}, "positions rotate 15 of head_dim = 15"),
        ({"mask_token_id": 88}, "mask_token_id = 88 lies outside the vocabulary of 88 ids"),
        ({"mask_token_id": None}, "mask_token_id = 151669 lies outside"),
    ],
    "sdar_moe": [
        ({"num_experts": 10**9}, "num_experts must be"),
        ({"num_experts": 10**4}, "num_experts is 10000: more than there are weights"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok = 9 is more than num_experts = 8"),
        ({"mlp_only_layers": [3]}, "mlp_only_layers must be layers below 3"),
        ({"mlp_only_layers": "0"}, "mlp_only_layers"),
        ({"mlp_only_layers": 0}, "mlp_only_layers"),
        ({"mlp_only_layers": [[1]]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"norm_topk_prob": None}, "config.json lacks 'norm_topk_prob'"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false"),
    ],
    "llada2_moe": [
        ({"expert_capacity": 8}, "expert_capacity = 8 is not supported"),
        ({"delete_token_id": 7}, "delete_token_id"),
        ({"split_token_id": 7}, "split_token_id"),
        ({"score_function": "softmax"}, "score_function"),
        ({"router_dtype": "bf16"}, "router_dtype"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"moe_router_enable_expert_bias": False}, "moe_router_enable_expert_bias"),
        ({"use_bias": True}, "use_bias"),
        ({"use_qkv_bias": True}, "use_qkv_bias"),
        ({"model_type": "llada2_moe_veomni"}, "merged experts"),
        ({"n_group": 3}, "num_experts = 16 cannot form n_group = 3 groups"),
        ({"n_group": 16}, "cannot form n_group = 16 groups"),
        ({"topk_group": 5}, "topk_group = 5 of n_group = 4"),
        ({"num_experts_per_tok": 9}, "do not hold num_experts_per_tok = 9"),
        ({"num_key_value_heads": None}, "config.json lacks 'num_key_value_heads'"),
        ({"partial_rotary_factor": 1.5}, "positions rotate 24 of head_dim = 16"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace must be an integer from 0"),
    ],
    "fast_dllm_v2": [
        ({"bd_size": -1}, "bd_size"),
        ({"num_attention_heads": 5}, "hidden_size = 48 is not a multiple"),
        ({"hidden_act": "relu"}, "hidden_act"),
    ],
}


@pytest.mark.parametrize(
    ("family", "changes", "words"), [(f, *case) for f, cases in REFUSED.items() for case in cases]
)
def test_a_config_that_is_not_built_is_refused_by_field(golden, tmp_path, family, changes, words):
    file = golden(f"families/{TINY[family]}")
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(write_folder(tmp_path / "bad", file, **changes))
