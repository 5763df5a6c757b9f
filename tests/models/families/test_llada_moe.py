"""LLaDA-MoE against its official code: logits, decoding, serving, and the published sizes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.load import inspect_checkpoint, load_checkpoint, load_network
from models.errors import CheckpointError
from models.families.decoder import Decoder
from models.registry import FAMILIES
from sampler import SAMPLERS, make_params
from tests.sampler.toy import behind, states
from tests.support.published import (
    close,
    manifest,
    run,
    same_bits_in_company,
    stored_shapes,
    write_folder,
)

VARIANTS = ("published", "full")
"""As published; and with all that the class can have: dense layers, a shared expert, a bias,
grouped queries and partial rotary positions."""


@pytest.fixture(scope="module")
def folders(golden, tmp_path_factory):
    place = tmp_path_factory.mktemp("llada_moe")
    return {v: write_folder(place / v, golden(f"families/lladamoe_tiny_{v}")) for v in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_official_ones(folders, golden, variant):
    t, network = golden(f"families/lladamoe_tiny_{variant}").tensors, load_network(folders[variant])
    for found, logits in zip(run(network, *t["input_ids"]), t["logits"], strict=True):
        close(found, logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_router_logits_are_the_official_ones(folders, golden, variant):
    t, network = golden(f"families/lladamoe_tiny_{variant}").tensors, load_network(folders[variant])
    found: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if name.endswith(".mlp.gate"):
            key = name.split(".")[2]
            module.register_forward_hook(lambda _m, _in, out, key=key: found.update({key: out}))
    run(network, *t["input_ids"])
    layers = [k.removeprefix("router_logits.") for k in t if k.startswith("router_logits.")]
    assert sorted(found) == sorted(layers)
    for layer in layers:
        close(found[layer], t[f"router_logits.{layer}"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_left_padding_is_a_shorter_sequence(folders, golden, variant):
    t, network = golden(f"families/lladamoe_tiny_{variant}").tensors, load_network(folders[variant])
    visible = t["attention_mask"].bool()
    real = [ids[mask] for ids, mask in zip(t["input_ids"], visible, strict=True)]
    for row, found in enumerate(run(network, *real)):
        close(found, t["logits_leftpad"][row][visible[row]])


def test_a_sequence_has_the_same_bits_in_any_company(tmp_path):
    same_bits_in_company(tmp_path / "random", "llada_moe")


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_runs_state_by_state(folders, golden, variant):
    """LLaDA's loop at temperature 0 is ``topk`` with k = 0."""
    file = golden(f"families/lladamoe_gen_{variant}")
    model, ran = load_checkpoint(folders[variant]).model, 0
    for case, t in file.cases():
        if case.get("temperature"):
            continue
        params = make_params(
            sampler="topk",
            steps=case["steps"],
            temperature=0.0,
            mixing_ratio=0.0,
            block_length=case["block_length"],
            compat="none" if case.get("suppress_mask", True) else "official",
        )
        sampler = SAMPLERS["topk"].make(64, 63, (61,))
        for row, prompt in enumerate(t["prompt"]):
            pads = 0 if "pads" not in case else case["pads"][row]
            found = states(model, sampler, behind(prompt[pads:].tolist(), 16, params))
            assert found == t["x_traj"][:, row, pads:].tolist(), (case, row)
            ran += 1
    assert ran >= 4


def test_the_published_size_has_the_published_tensors():
    known = manifest("llada_moe_7b_a1b_instruct")
    expected = {name: shape for name, (shape, _) in known["state_dict"].items()}
    assert stored_shapes(known["config"]) == expected
    spec = FAMILIES["llada_moe"]
    ours = {"model_type": "llada", **spec.random_config, **spec.shapes["llada-moe-7b"]}
    assert stored_shapes(ours) == expected


def test_facts(folders):
    info, defaults = inspect_checkpoint(folders["full"])
    assert (info.family, info.mask_id, info.eos_id, info.max_length) == ("llada_moe", 63, 61, 256)
    assert defaults["sampler"] == "topk" and info.block_length is None
    network = load_network(folders["full"])
    assert isinstance(network, Decoder) and network.config.sparse == (False, True, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"attention_bias": True}, "attention_bias"),
        ({"moe_layer_freq": [1, 1]}, "moe_layer_freq must be 3 zeros and ones"),
        ({"moe_layer_freq": [1, 1, 2]}, "moe_layer_freq"),
        ({"moe_layer_freq": [1, 1, "1"]}, "moe_layer_freq"),
        ({"moe_layer_freq": [[1], 1, 1]}, "moe_layer_freq"),
        ({"num_experts": 0}, "num_experts must be a positive integer"),
        ({"num_experts_per_tok": 20}, "num_experts_per_tok = 20 is more than num_experts = 8"),
        ({"expert_intermediate_size": None}, "config.json lacks 'expert_intermediate_size'"),
        ({"dense_intermediate_size": None}, "config.json lacks 'dense_intermediate_size'"),
        ({"partial_rotary_factor": -1}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 2}, "positions rotate 24 of head_dim = 12"),
        ({"mask_token_id": None}, "mask_token_id = 156895 lies outside the vocabulary of 64"),
        ({"shared_expert_intermediate_size": 17}, r"shared_expert.gate_proj.weight is \[16, 48\]"),
        ({"moe_router_enable_expert_bias": False}, "unknown tensors, first"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_field(golden, tmp_path, changes, words):
    file = golden("families/lladamoe_tiny_full")
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(write_folder(tmp_path / "bad", file, **changes))


def test_llada_without_experts_is_another_family(tmp_path, golden):
    file = golden("families/lladamoe_tiny_full")
    folder = write_folder(tmp_path / "bad", file)
    config = json.loads((folder / "config.json").read_text())
    del config["num_experts"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="this is LLaDA-MoE"):
        inspect_checkpoint(folder)


EXPERTS = "model.layers.1.mlp.experts"
ONE = f"{EXPERTS}.3.up_proj.weight"
UNKNOWN = (f"{EXPERTS}.8.up_proj.weight", f"{EXPERTS}.-1.up_proj.weight", f"{EXPERTS}.gate_up")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.pop(ONE), f"1 tensors missing, first {ONE}"),
        (lambda w: w.update({ONE: w[ONE][:-1].clone()}), r"up_proj.weight is \[19, 48\]"),
        (lambda w: w.update({ONE: w[ONE].T.contiguous()}), r"up_proj.weight is \[48, 20\]"),
        (lambda w: w.update({ONE: w[ONE] * torch.nan}), f"{ONE} holds values that are not finite"),
        (lambda w: w.update({ONE: w[ONE].int()}), f"{ONE} holds no floats"),
        (lambda w: w.update({ONE.replace("3", "8"): w[ONE].clone()}), "1 unknown tensors"),
        (lambda w: w.update({ONE.replace("3", "-1"): w[ONE].clone()}), "1 unknown tensors"),
        (
            lambda w: w.update({"model.layers.1.mlp.experts.gate_up": w[ONE].clone()}),
            "1 unknown tensors",
        ),
    ],
)
def test_an_expert_that_is_not_stored_as_published_is_refused_by_name(
    folders, tmp_path, spoil, words
):
    weights = load_file(folders["full"] / "model.safetensors")
    spoil(weights)
    shutil.copytree(folders["full"], tmp_path / "bad")
    save_file(weights, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_network(tmp_path / "bad")


def test_experts_of_one_layer_may_lie_in_several_files(folders, golden, tmp_path):
    weights = load_file(folders["full"] / "model.safetensors")
    folder = tmp_path / "shards"
    folder.mkdir()
    shutil.copy(folders["full"] / "config.json", folder)
    placed = {}
    for shard in range(3):
        part = dict(sorted(weights.items())[shard::3])
        save_file(part, folder / f"{shard}.safetensors")
        placed |= dict.fromkeys(part, f"{shard}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    t = golden("families/lladamoe_tiny_full").tensors
    for found, logits in zip(run(load_network(folder), *t["input_ids"]), t["logits"], strict=True):
        close(found, logits)
