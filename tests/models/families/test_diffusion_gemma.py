"""DiffusionGemma against its golden vectors, transformers' own class, and the published sizes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.convert import convert
from models.checkpoints.load import inspect_checkpoint, load_network
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from models.families.diffusion_gemma import DiffusionGemma
from models.registry import FAMILIES, build
from tests.support.canvases import Canvas, denoised, remembered
from tests.support.official_gemma import OfficialGemma
from tests.support.published import close, manifest, stored_shapes, write_folder

TINY = "families/diffusiongemma_tiny"


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("gemma") / "tiny", golden(TINY))


@pytest.fixture
def network(folder) -> DiffusionGemma:
    loaded = load_network(folder)
    assert isinstance(loaded, DiffusionGemma)
    loaded.reserve(256)
    return loaded


def case_of(golden, name: str) -> dict[str, Tensor]:
    tensors = golden(TINY).tensors
    return {n.removeprefix(f"{name}."): t[0] for n, t in tensors.items() if n.startswith(name)}


@pytest.mark.parametrize("name", ["short", "long"])
def test_encoder_and_canvas_are_the_official_ones(network, golden, name):
    """A prompt shorter than the window of the sliding layers, and a longer one."""
    t, start = case_of(golden, name), 5
    prompt = len(t["input_ids"])
    encoded, (logits,) = denoised(network, Canvas(t["input_ids"], t["canvas"], start))
    close(encoded[0], t["encoder_last_hidden_state"])
    close(logits, t["logits"])
    for layer in range(4):
        keys, values = (t[f"cache.{layer}.{kind}"].transpose(0, 1) for kind in ("keys", "values"))
        assert network.slabs is not None
        slab, kept = network.slabs[layer % 2], slice(start + prompt - len(keys), start + prompt)
        close(slab.keys[layer // 2, kept], keys)
        close(slab.values[layer // 2, kept], values)

    assert (t["logits_sc"] - t["logits"]).abs().max() > 5
    p = t["self_conditioning_logits"].softmax(-1)
    remembered(network, p, range(start + prompt, start + prompt + len(p)), 1)
    again = Canvas(t["input_ids"][:0], t["canvas"], start, before=prompt, phase=1)
    close(denoised(network, again)[1][0], t["logits_sc"])

    # the canvas is final: it is encoded in the pass that denoises the next one first
    following = Canvas(t["canvas"], t["canvas2"], start, before=prompt)
    encoded, (logits,) = denoised(network, following)
    close(encoded[0], t["canvas1_encoder_last_hidden_state"])
    close(logits, t["logits_canvas2"])


def test_canvases_of_different_prompts_share_a_pass(network, golden):
    """The golden batch, whose second row is padded on the left."""
    tensors = golden(TINY).tensors
    ids, mask = tensors["padded.input_ids"], tensors["padded.attention_mask"].bool()
    rows = [
        Canvas(row[real], canvas, 40 * i)
        for i, (row, real, canvas) in enumerate(
            zip(ids, mask, tensors["padded.canvas"], strict=True)
        )
    ]
    assert len(rows[0].prompt) != len(rows[1].prompt)
    _, logits = denoised(network, *rows)
    for found, expected in zip(logits, tensors["padded.logits"], strict=True):
        close(found, expected)


def test_bfloat16_stays_close(network, golden):
    t = case_of(golden, "long")
    network = network.to(torch.bfloat16)
    network.reserve(64)
    _, (logits,) = denoised(network, Canvas(t["input_ids"], t["canvas"], 0))
    official = (t["logits_bf16"].float() - t["logits"]).abs().max()
    assert (logits - t["logits"]).abs().max() < 2 * official


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_are_those_of_transformers_class(tmp_path, seed):
    theirs = OfficialGemma.small(seed)
    theirs.save_pretrained(tmp_path / "theirs")  # with the tensors of images
    ours = load_network(tmp_path / "theirs")
    assert isinstance(ours, DiffusionGemma)
    ours.reserve(128)
    g, length = torch.Generator().manual_seed(seed), 8 + seed
    prompt, canvas = (torch.randint(96, (n,), generator=g) for n in (7 + 9 * seed, length))
    sc = 4 * torch.randn(length, 96, generator=g)
    with torch.inference_mode():
        first = theirs(input_ids=prompt[None], decoder_input_ids=canvas[None])
        second = theirs(
            input_ids=prompt[None],
            decoder_input_ids=canvas[None],
            self_conditioning_logits=sc[None],
        )
    _, (logits,) = denoised(ours, Canvas(prompt, canvas, 3))
    close(logits, first.logits[0], 2e-4)
    remembered(ours, sc.softmax(-1), range(3 + len(prompt), 3 + len(prompt) + length), 1)
    again = Canvas(prompt[:0], canvas, 3, before=len(prompt), phase=1)
    close(denoised(ours, again)[1][0], second.logits[0], 2e-4)
    assert (second.logits - first.logits).abs().max() > 0.1


def test_a_canvas_has_the_same_bits_in_any_company(tmp_path):
    write_random(
        tmp_path / "random",
        FAMILIES["diffusion_gemma"].shapes["tiny"],
        family="diffusion_gemma",
        dtype=torch.float32,
    )
    network = load_network(tmp_path / "random")
    assert isinstance(network, DiffusionGemma)
    g, prompts = torch.Generator().manual_seed(0), [0, 1, 9, 33, 64, 100]

    def ids_of(length: int) -> Tensor:
        return torch.randint(512, (length,), generator=g)

    canvases = [Canvas(ids_of(length), ids_of(16), 130 * i) for i, length in enumerate(prompts)]
    p = torch.randn(6, 16, 512, generator=g).softmax(-1)
    later = [Canvas(c.prompt[:0], c.canvas, c.start, len(c.prompt), 1) for c in canvases]

    def logits_of(some: list[int]) -> list[Tensor]:
        network.reserve(800)
        _, first = denoised(network, *(canvases[i] for i in some))
        for i in some:
            begin = canvases[i].start + prompts[i]
            remembered(network, p[i], range(begin, begin + 16), 1)
        _, second = denoised(network, *(later[i] for i in some))
        return [torch.cat(pair) for pair in zip(first, second, strict=True)]

    alone = [logits_of([i])[0] for i in range(6)]
    for some in ([0, 1], [5, 2, 1], [3, 4, 0, 1, 2, 5]):
        for i, found in zip(some, logits_of(some), strict=True):
            assert torch.equal(found, alone[i])


def test_the_published_size_has_the_published_tensors():
    known = manifest("diffusiongemma_26b_a4b_it_text")
    assert len(known["shapes"]) == known["tensors"] == 691
    assert stored_shapes(known["config"]) == known["shapes"]
    spec = FAMILIES["diffusion_gemma"]
    ours = {"model_type": "diffusion_gemma", **spec.random_config, **spec.shapes["published"]}
    assert stored_shapes(ours) == known["shapes"]
    network = build(known["config"], None).network
    assert sum(t.numel() for t in network.stored().values()) == known["parameters"]


def test_published_defaults_become_ours(folder, tmp_path, golden):
    said = manifest("diffusiongemma_26b_a4b_it_text")["generation_config"]
    said |= {"eos_token_id": [1, 10, 50], "t_min": 0.3}
    said["sampler_config"] = {**said["sampler_config"], "entropy_bound": 0.25}
    place = write_folder(tmp_path / "published", golden(TINY))
    (place / "generation_config.json").write_text(json.dumps(said))
    info, defaults = inspect_checkpoint(place)
    found = {n: defaults[n] for n in ("sampler", "t_min", "t_max", "stop_entropy", "entropy_bound")}
    assert found == {
        "sampler": "entropy_bound",
        "t_min": 0.3,
        "t_max": 0.8,
        "stop_entropy": 0.005,
        "entropy_bound": 0.25,
    }
    assert (info.eos_id, info.more_ends, info.mask_id) == (1, (1, 10, 50), None)
    assert (info.canvas_length, info.block_length, defaults["block_length"]) == (12, None, 12)
    for bad in ([1, 64], [True], ["1"]):
        (place / "generation_config.json").write_text(json.dumps({"eos_token_id": bad}))
        with pytest.raises(CheckpointError, match="eos_token_id"):
            inspect_checkpoint(place)
    (place / "generation_config.json").write_text(
        json.dumps({"sampler_config": {"_cls_name": "X"}})
    )
    with pytest.raises(CheckpointError, match="sampler_config"):
        inspect_checkpoint(place)


def test_tensors_of_images_and_second_names_are_not_read(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    more = {
        "lm_head.weight": weights["model.decoder.embed_tokens.weight"].clone(),
        "model.encoder.language_model.norm.weight": weights["model.decoder.norm.weight"].clone(),
        "model.encoder.vision_tower.patch.weight": torch.zeros(2, 2),
        "model.encoder.embed_vision.weight": torch.zeros(2, 2),
    }
    place = tmp_path / "more"
    place.mkdir()
    (place / "config.json").write_text((folder / "config.json").read_text())
    save_file(weights | more, place / "model.safetensors")
    one, two = load_network(folder), load_network(place)
    assert {n: t.shape for n, t in one.stored().items()} == {
        n: t.shape for n, t in two.stored().items()
    }
    save_file(
        weights | {"model.decoder.further.weight": torch.zeros(2)}, place / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"unknown tensors, first model\.decoder\.further"):
        load_network(place)
    del weights["model.encoder.language_model.layers.2.layer_scalar"]
    save_file(weights, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing, first .*layers\.2\.layer_scalar"):
        load_network(place)


def test_conversion_keeps_names_and_weights(folder, tmp_path):
    convert(folder, tmp_path / "made")
    one, two = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "made"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


REFUSED = [
    ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ({"audio_config": {}}, "audio_config"),
    ({"canvas_length": 0}, "canvas_length"),
    ({"canvas_length": 513}, "canvas_length = 513 is more than max_position_embeddings = 512"),
    ({"text_config": None}, "text_config must be an object"),
]
INNER = [
    ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all'"),
    ({"hidden_activation": "silu"}, "hidden_activation"),
    ({"attention_bias": True}, "attention_bias"),
    ({"attention_k_eq_v": False}, "attention_k_eq_v"),
    ({"hidden_size_per_layer_input": 8}, "hidden_size_per_layer_input"),
    ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ({"top_k_experts": 7}, "top_k_experts = 7 is more than num_experts = 6"),
    ({"num_experts": None}, "num_experts"),
    ({"layer_types": ["full_attention"]}, "layer_types must be 4 words"),
    ({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer_types ends in"),
    ({"per_layer_config": {"1": {"head_dim": 16}}}, "per_layer_config"),
    ({"per_layer_config": {"1": {"x": 1}, "3": {"x": 1}}}, "per_layer_config may say"),
    ({"rope_parameters": {"full_attention": {}}}, "rope_parameters"),
    ({"sliding_window": 0}, "sliding_window"),
    ({"head_dim": 7}, "head_dim = 7 is odd"),
    ({"num_global_key_value_heads": 3}, "not a multiple of 3"),
    ({"final_logit_softcapping": 0}, "final_logit_softcapping"),
    ({"eos_token_id": [64]}, "eos_token_id = 64 lies outside"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED + INNER)
def test_a_config_that_is_not_built_is_refused_by_field(golden, tmp_path, changes, words):
    file = golden(TINY)
    if (changes, words) in INNER:
        changes = {"text_config": file.meta["config"]["text_config"] | changes}
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(write_folder(tmp_path / "bad", file, **changes))


def test_both_spellings_of_the_full_layers_are_one_network(golden, tmp_path, folder):
    file = golden(TINY)
    text = dict(file.meta["config"]["text_config"])
    wide, few = text.pop("global_head_dim"), text.pop("num_global_key_value_heads")
    own = {"head_dim": wide, "num_key_value_heads": few}
    text["per_layer_config"] = {"1": own, "3": own}
    other = load_network(write_folder(tmp_path / "other", file, text_config=text))
    assert isinstance(other, DiffusionGemma)
    known = load_network(folder)
    assert isinstance(known, DiffusionGemma) and other.config == known.config
