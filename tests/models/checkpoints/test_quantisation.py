"""Published checkpoints in fp8: every layout is read to the numbers that it stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.cache import Segments
from models.checkpoints import weights
from models.checkpoints.convert import convert
from models.checkpoints.fp8 import dequantised
from models.checkpoints.load import check_checkpoint, inspect_whole, load_checkpoint, load_network
from models.checkpoints.quantisation import quantised, read_layouts
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError, UnsupportedConfig
from models.families.decoder import Decoder
from models.files import read_json
from models.float8 import Float8Linear
from models.registry import FAMILIES
from tests.models.checkpoints.test_adapter import write_adapter
from tests.support.effort import count
from tests.support.fp8 import (
    BLOCK,
    LAYOUTS,
    change_config,
    change_weights,
    compressed,
    quantise,
    scatter,
)

SPLIT = {"channel", "tensor", "group"}
"""Layouts of llm-compressor, which stores experts one by one."""
NAMES = ("sdar", "llada", "llada2_moe", "diffusion_gemma")
MATRIX = "model.layers.0.self_attn.q_proj.weight"


def tiny(place: Path, family: str) -> Path:
    """A random folder whose logits differ enough to be compared. All experts of a mixture are
    chosen: rounding shall not change which.
    """
    shape = dict(FAMILIES[family].shapes["tiny"])
    if family == "llada2_moe":
        shape |= {"num_experts_per_tok": shape["num_experts"], "topk_group": shape["n_group"]}
    if inner := shape.get("text_config"):
        shape["text_config"] = {**inner, "top_k_experts": inner["num_experts"]}
    write_random(place, shape, family=family, seed=7, dtype=torch.float32)
    held = load_file(place / "model.safetensors")
    save_file(
        {n: 4 * t if t.dim() > 1 else t for n, t in held.items()}, place / "model.safetensors"
    )
    return place


def made(tmp_path: Path, family: str, layout: str, **options: Tensor) -> tuple[Path, Path, Path]:
    """A folder, the same in fp8, and what that stands for."""
    source = tiny(tmp_path / "source", family)
    places = (tmp_path / "narrow", tmp_path / "plain")
    quantise(source, LAYOUTS[layout], *places, split_experts=layout in SPLIT, more=options)
    return source, *places


def logits(folder: Path) -> Tensor:
    """Of 16 tokens, [16, V]."""
    network = load_network(folder, dtype="float32")
    tokens = torch.arange(3, 19)
    with torch.no_grad():
        return network.head(network.trunk(tokens, torch.tensor([0, 16])))


READ = [
    (family, layout)
    for i, family in enumerate(NAMES)
    for j, layout in enumerate(LAYOUTS)
    if (i + j) % count(3, 1) == 0
]
"""In ``make test`` each family with two layouts, each layout with one or two families."""


@pytest.mark.parametrize(("family", "layout"), READ)
def test_a_layout_is_read_to_what_it_stands_for(tmp_path, family, layout):
    source, narrow, plain = made(tmp_path, family, layout)
    stored = load_file(narrow / "model.safetensors")
    assert sum(t.dtype == torch.float8_e4m3fn for t in stored.values()) >= 10
    for dtype in ("float32", "bfloat16"):
        one = load_network(narrow, dtype=dtype).state_dict()
        two = load_network(plain, dtype=dtype).state_dict()
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    exact, found = logits(source), logits(narrow)
    assert torch.equal(found, logits(plain))
    assert (found - exact).norm() < 0.3 * exact.norm()  # of unrelated logits about 1.4


def test_scales_may_be_in_another_file(tmp_path):
    _, narrow, plain = made(tmp_path, "sdar", "channel")
    scatter(narrow)
    one, two = (load_network(place).state_dict() for place in (narrow, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_scales_of_inputs_and_caches_are_not_used(tmp_path):
    more = {
        "model.layers.0.self_attn.q_proj.input_scale": torch.tensor(2.0),
        "model.layers.0.self_attn.o_proj.activation_scale": torch.tensor(2.0),
        "model.layers.0.self_attn.k_proj.output_scale": torch.tensor(2.0),
        "model.layers.0.self_attn.k_scale": torch.tensor(2.0),
        "model.layers.0.self_attn.v_scale": torch.tensor(2.0),
    }
    _, narrow, plain = made(tmp_path, "sdar", "scalar", **more)
    one, two = (load_network(place).state_dict() for place in (narrow, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_of_a_matrix_is_that_part_of_the_whole(tmp_path, layout):
    _, narrow, _ = made(tmp_path, "sdar", layout)
    found = weights.headers(narrow)
    whole = quantised(narrow, found, read_json(narrow / "config.json"))
    assert whole is not None
    header = whole.scaled(narrow, lambda name: False)[MATRIX]
    with weights.opened(header.path) as file:
        matrix = weights.whole(file, header)
        for which in (slice(0, 32), slice(32, 64), slice(19, 50)):
            assert torch.equal(weights.sliced(file, header, 0, which), matrix[which])
            assert torch.equal(weights.sliced(file, header, 1, which), matrix[:, which])


def test_a_stack_has_scales_for_each_matrix_or_one():
    entries = torch.randn(3, 5, 7).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 3, 2) + 0.1
    found = dequantised(entries, scales, (2, 4))
    spread = scales.repeat_interleave(2, 1)[:, :5].repeat_interleave(4, 2)[:, :, :7]
    assert torch.equal(found, entries.float() * spread)
    one = torch.tensor([[0.5]])
    assert torch.equal(dequantised(entries, one, (5, 7)), entries.float() * 0.5)
    column = torch.rand(3, 5, 1) + 0.1
    assert torch.equal(dequantised(entries, column, (1, 7)), entries.float() * column)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8"])
def test_every_type_of_weights_is_made_of_it(tmp_path, dtype):
    _, narrow, plain = made(tmp_path, "sdar", "channel")
    check_checkpoint(narrow, dtype=dtype)
    hidden = []
    for place in (narrow, plain):
        model = load_checkpoint(place, dtype=dtype).model
        with torch.no_grad():
            hidden.append(model.trunk(torch.arange(3, 19), torch.tensor([0, 16])))
    assert torch.equal(*hidden)


def test_float8_has_the_stored_entries_of_rows(tmp_path):
    _, narrow, _ = made(tmp_path, "sdar", "channel")
    stored = load_file(narrow / "model.safetensors")
    network = load_network(narrow, dtype="float8")
    layers = {n: m for n, m in network.named_modules() if isinstance(m, Float8Linear)}
    assert len(layers) == 14
    for name, layer in layers.items():
        assert torch.equal(layer.entries.float(), stored[f"{name}.weight"].float())
        scales = stored[f"{name}.weight_scale"].float().view(1, -1)
        assert torch.allclose(layer.scale, scales, rtol=2**-8, atol=0)


def test_an_embedding_in_fp8_is_read(tmp_path):
    source, narrow, _ = made(tmp_path, "sdar", "channel")
    table = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    scale = table.abs().amax(1, keepdim=True) / 448
    entries = (table / scale).to(torch.float8_e4m3fn)
    names = ("model.embed_tokens.weight", "model.embed_tokens.weight_scale")
    change_weights(narrow, **dict(zip(names, (entries, scale), strict=True)))
    assert torch.equal(load_network(narrow).state_dict()[names[0]], entries.float() * scale)


def test_facts_say_that_it_is_in_fp8(tmp_path):
    source, narrow, _ = made(tmp_path, "sdar", "channel")
    found, wide = inspect_whole(narrow), inspect_whole(source)
    assert found.info.dtype == "F32+F8_E4M3"
    assert found.quantisation == "fp8 (e4m3), a scale of each row; compressed-tensors"
    assert wide.quantisation == ""
    assert (found.needs, found.info.parameters) == (wide.needs, wide.info.parameters)


def test_an_adapter_is_added_to_what_it_stands_for(tmp_path):
    _, narrow, plain = made(tmp_path, "sdar", "block")
    layer = MATRIX.removesuffix(".weight")
    product = {
        f"base_model.model.{layer}.lora_A.weight": torch.randn(2, 64),
        f"base_model.model.{layer}.lora_B.weight": torch.randn(64, 2),
    }
    adapter = write_adapter(tmp_path / "adapter", product)
    states = []
    for place in (narrow, plain):
        model = load_checkpoint(place, adapter=adapter).model
        assert isinstance(model, Decoder)
        states.append(model.state_dict())
    one, two = states
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one[MATRIX], load_network(narrow).state_dict()[MATRIX])


@pytest.mark.parametrize("family", ["sdar", "diffusion_gemma"])
def test_conversion_writes_it_in_bfloat16(tmp_path, family):
    _, narrow, plain = made(tmp_path, family, "channel")
    convert(narrow, tmp_path / "written")
    assert "quantization_config" not in read_json(tmp_path / "written" / "config.json")
    one, two = (
        load_network(p, dtype="bfloat16").state_dict() for p in (tmp_path / "written", plain)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_canvas_after_a_prompt_is_close(tmp_path):
    """DiffusionGemma as it is served: a prompt that is encoded, and a canvas after it."""
    source, narrow, _ = made(tmp_path, "diffusion_gemma", "channel")
    found = []
    for place in (source, narrow):
        network = load_network(place)
        network.reserve(32)
        lengths = np.array([24])
        segments = Segments(lengths, np.arange(24), np.array([0]), lengths, np.array([8]))
        tokens = torch.arange(3, 27)
        with torch.no_grad():
            hidden = network.trunk(tokens, torch.tensor([0, 24]), segments=segments)
            found.append(network.head(hidden[8:]))
    assert (found[1] - found[0]).norm() < 0.3 * found[0].norm()


SCALE = f"{MATRIX}_scale"
E5M2 = torch.zeros(64, 64).to(torch.float8_e5m2)
BAD_TENSORS = [
    ({SCALE: None}, f"{MATRIX} is in F8_E4M3 and has no scale"),
    ({SCALE: torch.ones(63, 1)}, r"q_proj\.weight_scale is \[63, 1\], expected \[64, 1\]"),
    ({SCALE: torch.ones(1, 64)}, r"q_proj\.weight_scale is \[1, 64\], expected \[64, 1\]"),
    ({SCALE: torch.ones(1)}, r"q_proj\.weight_scale is \[1\], expected \[64, 1\]"),
    ({SCALE: torch.zeros(64, 1)}, r"q_proj\.weight_scale holds scales that are not positive"),
    ({SCALE: -torch.ones(64, 1)}, r"q_proj\.weight_scale holds scales that are not positive"),
    ({SCALE: torch.full((64, 1), torch.inf)}, r"q_proj\.weight_scale holds scales"),
    ({SCALE: torch.full((64, 1), torch.nan)}, r"q_proj\.weight_scale holds scales"),
    ({SCALE: torch.ones(64, 1, dtype=torch.int32)}, r"weight_scale is in I32"),
    ({f"{MATRIX}_scale_inv": torch.ones(64, 1)}, f"{MATRIX} has two scales"),
    ({MATRIX: E5M2}, f"{MATRIX} is in F8_E5M2, only F8_E4M3"),
    ({MATRIX: torch.zeros(64, 64)}, f"unknown tensors, first {SCALE}"),
    ({MATRIX: torch.zeros(64, 64, dtype=torch.int8)}, f"{MATRIX} is in I8, only F8_E4M3"),
    (
        {MATRIX: torch.full((64, 64), torch.nan).to(torch.float8_e4m3fn)},
        f"{MATRIX} holds values that are not finite",
    ),
    (
        {"model.norm.weight": torch.ones(64).to(torch.float8_e4m3fn)},
        r"model\.norm\.weight is in F8_E4M3 and no matrix",
    ),
    ({MATRIX: torch.zeros(64, 32).to(torch.float8_e4m3fn)}, r"\[64, 32\], expected \[64, 64\]"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_TENSORS)
def test_tensors_without_a_good_scale_are_refused(tmp_path, changes, words):
    _, narrow, _ = made(tmp_path, "sdar", "channel")
    change_weights(narrow, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_network(narrow)
    assert "\n" not in str(caught.value)


def test_a_block_that_is_not_of_the_config_is_refused(tmp_path):
    _, narrow, _ = made(tmp_path, "sdar", "block")
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    change_config(narrow, quantization_config=config)
    with pytest.raises(CheckpointError, match=r"weight_scale_inv is \[\d, \d\], expected \[1, 1\]"):
        load_network(narrow)


def test_fp8_and_its_config_belong_together(tmp_path):
    source, narrow, _ = made(tmp_path, "sdar", "channel")
    change_config(source, quantization_config=compressed("channel"))
    with pytest.raises(CheckpointError, match="says 'compressed-tensors', and no tensor is in F8"):
        load_network(source)
    for config in (None, {**compressed("channel"), "config_groups": {}}):
        change_config(narrow, quantization_config=config)
        with pytest.raises(
            CheckpointError, match=r"F8_E4M3, and config\.json has no quantization_"
        ):
            load_network(narrow)


def test_a_config_inside_text_config_counts(tmp_path):
    _, narrow, plain = made(tmp_path, "diffusion_gemma", "channel")
    config = read_json(narrow / "config.json")
    inner = {**config["text_config"], "quantization_config": config["quantization_config"]}
    change_config(narrow, quantization_config=None, text_config=inner)
    one, two = (load_network(place).state_dict() for place in (narrow, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_packed_integers_are_refused_by_their_method(tmp_path):
    _, narrow, _ = made(tmp_path, "sdar", "channel")
    change_weights(
        narrow,
        **{
            MATRIX: None,
            SCALE: None,
            MATRIX.replace("weight", "qweight"): torch.zeros(8, 64, dtype=torch.int32),
        },
    )
    for method in ("gptq", "awq", "modelopt", "bitsandbytes"):
        change_config(narrow, quantization_config={"quant_method": method, "bits": 4})
        with pytest.raises(CheckpointError, match=f"quant_method in .* is '{method}'"):
            load_network(narrow)


def weights_group(strategy: str = "channel", **fields: object) -> dict[str, object]:
    return compressed(strategy, **fields)


REFUSED = [
    ("fp8", "quantization_config must be an object"),
    ({}, "quant_method in quantization_config is 'None'"),
    ({"quant_method": "gptq"}, "quant_method .* 'gptq'; only fp8"),
    ({"quant_method": "mxfp4"}, "quant_method"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt .* 'e5m2', only 'e4m3'"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size .* two sizes"),
    ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
    ({**compressed("channel"), "format": "pack-quantized", "config_groups": None}, "config_groups"),
    ({**compressed("channel"), "config_groups": {"FP8": ["Linear"]}}, r"config_groups\.FP8"),
    ({**compressed("channel"), "sparsity_config": {"format": "sparse-24"}}, "sparsity_config"),
    ({**compressed("channel"), "transform_config": {"config_groups": {"a": 1}}}, "transform_conf"),
    (weights_group(num_bits=4), "config_groups.group_0.weights.num_bits .* '4', only 8"),
    (weights_group(type="int"), r"weights\.type .* 'int', only 'float'"),
    (weights_group(symmetric=False), r"weights\.symmetric"),
    (weights_group(strategy="tensor_group"), r"weights\.strategy .* 'tensor_group'"),
    (weights_group(strategy="block"), r"weights\.block_structure .* two sizes"),
    (weights_group(strategy="block", block_structure="axb"), r"weights\.block_structure"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_quantisations_that_are_not_read_are_refused_by_field(config, words):
    with pytest.raises(UnsupportedConfig, match=words):
        read_layouts(config)


def test_formats_of_groups_are_checked():
    config = compressed("channel")
    config["config_groups"]["group_0"]["format"] = "nvfp4-pack-quantized"
    with pytest.raises(UnsupportedConfig, match=r"format .* 'nvfp4-pack-quantized', only"):
        read_layouts(config)
    config["config_groups"]["group_0"]["format"] = None
    config["format"] = "pack-quantized"
    with pytest.raises(UnsupportedConfig, match=r"format .* 'pack-quantized', only"):
        read_layouts(config)
    config["format"] = "naive-quantized"
    found = read_layouts(config)
    assert found is not None and found.rows and not found.whole


def test_groups_may_differ_but_not_in_blocks():
    config = compressed("block", block_structure="24x32")
    other = compressed("tensor")["config_groups"]["group_0"]
    config["config_groups"]["group_1"] = other
    found = read_layouts(config)
    assert found is not None and found.block == BLOCK and found.whole
    wider = compressed("block", block_structure=[128, 128])["config_groups"]["group_0"]
    config["config_groups"]["group_2"] = wider
    with pytest.raises(UnsupportedConfig, match=r"group_2\.weights\.block_structure .* other"):
        read_layouts(config)


def test_a_scheme_of_caches_alone_quantises_no_weights(tmp_path):
    config = compressed("channel")
    config["config_groups"]["group_0"]["weights"] = None
    assert read_layouts({**config, "kv_cache_scheme": {"num_bits": 8}}) is None
    source = tiny(tmp_path / "source", "sdar")
    change_config(source, quantization_config=config)
    load_network(source)


def test_another_method_of_plain_weights_is_ignored(tmp_path):
    source = tiny(tmp_path / "source", "sdar")
    change_config(source, quantization_config={"quant_method": "bitsandbytes"})
    load_network(source)


def test_safetensors_reads_parts_of_fp8(tmp_path):
    tensor = torch.randn(6, 8).to(torch.float8_e4m3fn)
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    with safe_open(str(tmp_path / "x.safetensors"), "pt") as file:
        part = file.get_slice("x")
        assert part.get_dtype() == "F8_E4M3"
        assert torch.equal(part[2:4].float(), tensor[2:4].float())
