"""The text DiT against the official code, packing against itself, and its folders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import cpu, registry
from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from models.errors import CheckpointError, UnsupportedConfig
from models.families.dit import INV_FREQ, DiT, parameter_names
from models.families.dit_config import DIT_SHAPES, DiTConfig, stored_sizes
from tests.support.paths import GOLDEN

PREFIX = "weights.backbone."


def official(file) -> DiT:
    """The network whose weights a golden file holds."""
    state = {k[len(PREFIX) :]: t for k, t in file.tensors.items() if k.startswith(PREFIX)}
    frequencies = state.pop(INV_FREQ)
    said = {"model_length": 64, "n_heads": 4, "eos_token_id": 0, "mask_token_id": 32}
    sizes = stored_sizes({name: tuple(t.shape) for name, t in state.items()})
    model = DiT(DiTConfig.from_dict(said, sizes)).requires_grad_(False)
    model.load_state_dict(state)
    assert torch.equal(model.derived()[INV_FREQ], frequencies)
    return model


def logits(model: DiT, x: Tensor) -> Tensor:
    """[B, L] -> [B, L, V], all sequences in one pass."""
    offsets = torch.arange(len(x) + 1) * x.shape[1]
    return model.head(model.trunk(x.flatten(), offsets)).unflatten(0, x.shape)


def test_logits_are_the_official_ones(golden):
    file = golden("dit_text_tiny")
    model = official(file)
    theirs = file.tensors["logits.sigma0"]
    before = logits(model, file.tensors["x"])
    torch.testing.assert_close(before, theirs, rtol=0, atol=5e-5)
    model.fold()
    torch.testing.assert_close(logits(model, file.tensors["x"]), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["traj_xdlm_k0.1_gpt2like", "traj_mdlm_gpt2like", "traj_udlm"])
def test_official_runs_step_by_step(golden, name):
    """Outputs of the classes' ``forward`` at each step: XDLM the logits as they are, UDLM their
    log-softmax, MDLM the log-softmax without the mask, where a mask stands.
    """
    file = golden(name)
    model = official(file)
    model.fold()
    x, theirs = file.tensors["step_x"], file.tensors["model_out"]
    ours = logits(model, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    mask = file.meta["meta"]["mask"]
    if file.meta["meta"]["cls"] == "UDLM":
        ours = ours.log_softmax(-1)
    if file.meta["meta"]["cls"] == "MDLM":
        assert mask == 32 and bool((x == mask).any())
        ours, theirs = ours[x == mask][:, :mask].log_softmax(-1), theirs[x == mask][:, :mask]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("shape", ["tiny-owt", "small-owt", "small-lm1b", "medium-owt"])
def test_published_sizes_fit(shape):
    """Names, shapes, count and the order of unnamed averages, on the meta device."""
    tokenizer = {"owt": "gpt2", "lm1b": "bert"}[shape.split("-")[1]]
    path = GOLDEN / "manifests" / f"dit_{shape.replace('-', '_')}_{tokenizer}.json"
    manifest = json.loads(path.read_text())
    model = registry.build({"model_type": "dit", **DIT_SHAPES[shape]}, None).network
    ours = model.state_dict() | model.derived()
    expected = {name: dims for name, (dims, _) in manifest["state_dict"].items()}
    assert {f"backbone.{n}": list(t.shape) for n, t in ours.items()} == expected
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"]
    order = [f"backbone.{n}" for n in parameter_names(manifest["blocks"])]
    assert order == manifest["ema_shadow_order"] and len(order) == manifest["n_param_tensors"]


def config(**changes):
    return DIT_SHAPES["tiny"] | {"cond_dim": 16} | changes


@pytest.fixture(scope="module")
def tiny() -> DiT:
    torch.manual_seed(1)
    model = DiT(DiTConfig.from_dict(config())).requires_grad_(False)
    model.fold()
    return model


def test_a_sequence_gets_the_same_bits_in_any_company(tiny):
    g = torch.Generator().manual_seed(0)
    lengths = [1, 5, 16, 33, 64, 65, 100, 130, 192, 200, 256]
    sequences = [torch.randint(500, (n,), generator=g) for n in lengths]

    def packed(some: list[Tensor]) -> list[Tensor]:
        counts = [len(s) for s in some]
        return list(tiny.trunk(torch.cat(some), torch.tensor([0, *counts]).cumsum(0)).split(counts))

    alone = [packed([s])[0] for s in sequences]
    for _ in range(8):
        some = torch.randperm(len(lengths), generator=g)[: torch.randint(2, 11, (1,), generator=g)]
        for i, hidden in zip(some, packed([sequences[i] for i in some]), strict=True):
            assert torch.equal(hidden, alone[i])
    rows = torch.randperm(256, generator=g)
    whole = tiny.head(alone[-1])
    for count in (16, 17, 40, 200):
        assert torch.equal(tiny.head(alone[-1][rows[:count]]), whole[rows[:count]])


def test_asking_for_some_rows_gives_the_bits_of_all(tiny):
    g = torch.Generator().manual_seed(1)
    tokens, offsets = torch.randint(500, (300,), generator=g), torch.tensor([0, 100, 170, 300])
    whole = tiny.trunk(tokens, offsets)
    for count in (0, 1, 7, 16, 33, 250):
        rows = torch.randperm(300, generator=g)[:count]
        assert torch.equal(tiny.trunk(tokens, offsets, rows), whole[rows])


def test_folding_drops_what_only_the_modulation_needed(tiny):
    left = "".join(name for name, _ in tiny.named_parameters())
    assert not any(word in left for word in ("sigma_map", "adaLN", "norm"))
    assert tiny.folded is not None and tiny.folded.shape == (1, 2 * 6 + 2, 64)


@pytest.fixture
def folder(tmp_path):
    shape = config(mask_token_id=500)
    write_random(tmp_path / "dit", shape, family="dit", dtype=torch.float32)
    return tmp_path / "dit"


def refuse(folder, words: str) -> None:
    for opened in (load_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=words) as caught:
            opened(folder)
        assert "\n" not in str(caught.value)


def rewrite(folder, **changes) -> None:
    """Fields of ``config.json``; ``...`` removes one."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def test_facts(folder):
    loaded = load_checkpoint(folder)
    info, defaults = inspect_checkpoint(folder)
    assert (info.family, info.mask_id, info.eos_id, info.max_length) == ("dit", 500, 1, 512)
    state = load_file(folder / "model.safetensors")
    assert loaded.info.parameters == info.parameters == sum(t.numel() for t in state.values())
    assert defaults["mixing_ratio"] == 0.1


def test_bfloat16_stays_close(folder):
    if not cpu.has_fast_bfloat16():
        pytest.skip("no bfloat16 arithmetic")
    exact, half = (load_checkpoint(folder, dtype=kind) for kind in ("float32", "bfloat16"))
    tokens, offsets = torch.arange(30), torch.tensor([0, 30])
    hidden = half.model.trunk(tokens, offsets)
    assert hidden.dtype == torch.bfloat16
    assert (hidden.float() - exact.model.trunk(tokens, offsets)).abs().max() < 0.1


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "_forward_module.", "module."])
def test_a_third_partys_folder(folder, prefix):
    """Their names, their ``model_type``, their wrong ``cond_dim``, their stored frequencies."""
    expected = load_checkpoint(folder)
    path = folder / "model.safetensors"
    frequencies = 10_000.0 ** -(torch.arange(0, 16, 2) / 16)
    state = load_file(path) | {INV_FREQ: frequencies}
    save_file({prefix + name: t for name, t in state.items()}, path)
    rewrite(folder, model_type="mdlm", cond_dim=129, dropout=0.1, time_conditioning=False)
    loaded = load_checkpoint(folder)
    assert loaded.info == expected.info
    tokens, offsets = torch.arange(30), torch.tensor([0, 30])
    ours, theirs = (c.model.trunk(tokens, offsets) for c in (loaded, expected))
    assert torch.equal(ours, theirs)
    save_file(state | {f"{prefix}x.weight": torch.ones(1), "x.weight": torch.ones(1)}, path)
    refuse(folder, "are one name")
    save_file(state | {INV_FREQ: frequencies[:4].clone()}, path)
    refuse(folder, r"inv_freq is \[4\], expected \[8\]")
    save_file(state | {INV_FREQ: 2 * frequencies}, path)
    with pytest.raises(CheckpointError, match="inv_freq is not what the config gives"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_conditioning": True}, "time_conditioning"),
        ({"causal_attention": True}, "causal_attention"),
        ({"hidden_dim": 128}, "hidden_dim is 128 in config.json, 64 in the weights"),
        ({"n_blocks": 1_000_000_000}, "n_blocks is 1000000000"),
        ({"vocab_size": 511}, "vocab_size is 511"),
        ({"n_heads": 5}, "n_heads"),
        ({"n_heads": 0}, "n_heads"),
        ({"n_heads": ...}, "n_heads"),
        ({"model_length": "512"}, "model_length"),
        ({"mask_token_id": ...}, "mask_token_id"),
        ({"mask_token_id": 512}, "mask_token_id"),
        ({"eos_token_id": None}, "eos_token_id"),
        ({"model_type": "gpt2", "n_blocks": ...}, "model_type is 'gpt2'"),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(folder, changes, words):
    rewrite(folder, **changes)
    refuse(folder, words)


def test_weights_of_something_else_are_refused(folder):
    path = folder / "model.safetensors"
    good = load_file(path)
    save_file(good | {"y_embedder.embedding_table.weight": torch.zeros(11)}, path)
    refuse(folder, "no table of labels")
    save_file({"wte.weight": torch.zeros(2, 2)}, path)
    refuse(folder, "not a DiT's")
    save_file(good | {"blocks.0.mlp.0.bias": torch.zeros(255)}, path)
    refuse(folder, r"blocks.0.mlp.0.bias is \[255\], expected \[256\]")
    save_file(good | {"blocks.1.norm1.weight": torch.full((64,), torch.inf)}, path)
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(folder)
    save_file(good | {"blocks.1.norm1.weight": torch.ones(64, dtype=torch.int32)}, path)
    with pytest.raises(CheckpointError, match="no floats"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("vocab_size", "mask", "end"), [(50258, 50257, 50256), (30522, 103, 101), (50258, 7, 50256)]
)
def test_known_vocabularies_need_no_ids(vocab_size, mask, end):
    raw = config(vocab_size=vocab_size) | {"mask_token_id": None, "eos_token_id": None}
    if mask == 7:
        raw["mask_token_id"] = 7
    found = DiTConfig.from_dict(raw)
    assert (found.mask_token_id, found.eos_token_id) == (mask, end)


def test_shapes_in_words():
    assert parse_shape("small-lm1b, n_blocks=2", "dit")["n_blocks"] == 2
    with pytest.raises(CheckpointError, match="neither"):
        parse_shape("llada-8b", "dit")
    with pytest.raises(UnsupportedConfig, match="cond_dim"):
        DiTConfig.from_dict({k: v for k, v in config().items() if k != "cond_dim"})
