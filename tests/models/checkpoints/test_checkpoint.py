"""Checkpoint folders: what is loaded, and one line for everything that is not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import cpu
from models.bundled import BUNDLED, bundled_names
from models.checkpoints import devices
from models.checkpoints.devices import device_named
from models.checkpoints.load import find_checkpoint, inspect_checkpoint, load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from models.errors import CheckpointError
from models.families.llada import LLaDA, LLaDAConfig
from models.families.llada_config import SHAPES
from models.registry import FAMILIES
from tests.support.paths import GOLDEN
from tests.support.serving import write_tiny


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "tiny")


def refuse(folder, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_the_bundled_checkpoint_loads():
    assert "stories" in bundled_names()
    loaded = load_checkpoint(find_checkpoint("stories"))
    assert loaded.info.family == "llada" and loaded.info.mask_id == loaded.info.vocab_size - 1
    assert loaded.defaults["mixing_ratio"] == 0.1
    size = sum(p.stat().st_size for p in (BUNDLED / "stories").glob("*.*"))
    assert size <= 20_000_000


def test_facts(folder):
    info = load_checkpoint(folder).info
    assert (info.name, info.dtype, info.max_length) == ("tiny", "float32", 256)
    state = load_file(folder / "model.safetensors")
    assert info.parameters == sum(t.numel() for t in state.values())


def test_bfloat16_with_instructions_for_it_stays_close(folder):
    if not cpu.has_fast_bfloat16():
        pytest.skip("no bfloat16 arithmetic")
    loaded = load_checkpoint(folder, dtype="bfloat16")
    hidden = loaded.model.trunk(torch.arange(30), torch.tensor([0, 30]))
    exact = load_checkpoint(folder).model.trunk(torch.arange(30), torch.tensor([0, 30]))
    assert hidden.dtype == torch.bfloat16
    assert (hidden.float() - exact).abs().max() < 0.25


def test_large_networks_are_in_bfloat16_where_a_cpu_computes_in_it():
    where, fast = torch.device("cpu"), cpu.has_fast_bfloat16()
    assert devices.dtype_named("auto", where, devices.LARGE - 1) == torch.float32
    large = devices.dtype_named("auto", where, devices.LARGE)
    assert large == (torch.bfloat16 if fast else torch.float32)
    assert devices.dtype_named("float32", where, devices.LARGE) == torch.float32
    assert devices.dtype_named("auto", torch.device("cuda"), 1) == torch.bfloat16


def test_unknown_checkpoint_and_device_are_refused():
    with pytest.raises(CheckpointError, match=r"bundled ones: .*stories"):
        find_checkpoint("no/such/place")
    for device in ("abacus", "mps", "xpu", "meta", "cpu:1", "cuda:", "CPU", "vulkan", ""):
        with pytest.raises(CheckpointError, match=f"device is '{device}'; it must be auto, cpu"):
            load_checkpoint(BUNDLED / "stories", device=device)
    with pytest.raises(CheckpointError, match="device is 'cuda:999'"):
        load_checkpoint(BUNDLED / "stories", device="cuda:999")


def test_auto_is_cuda_where_there_is_a_device():
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    refuse(folder, f"{name} is missing")


def test_broken_json(folder):
    (folder / "config.json").write_text("{")
    refuse(folder, "config.json")
    (folder / "config.json").write_text("[]")
    refuse(folder, "JSON object")


def test_another_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    refuse(folder, "tokenizer.json")


def test_weights_that_do_not_fit(folder):
    path = folder / "model.safetensors"
    good = load_file(path)
    norm = "model.transformer.ln_f.weight"
    save_file({k: t for k, t in good.items() if k != norm}, path)
    refuse(folder, f"1 tensors missing, first {norm}")
    save_file(good | {"spare": torch.zeros(1)}, path)
    refuse(folder, "1 unknown tensors, first spare")
    save_file(good | {norm: torch.zeros(31)}, path)
    refuse(folder, r"ln_f.weight is \[31\], expected \[32\]")
    save_file(good | {norm: torch.full((32,), torch.nan)}, path)
    refuse(folder, "not finite")
    path.write_bytes(path.read_bytes()[:-100])
    refuse(folder, "model.safetensors")
    path.write_bytes(b"\xff" * 64)
    refuse(folder, "model.safetensors")


def test_no_code_and_no_pickle_is_looked_at(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    refuse(folder, "model.safetensors is missing")


@pytest.fixture
def sharded(tmp_path):
    """The same random weights in one file and in several."""
    for name, limit in (("whole", 1 << 30), ("parts", 100_000)):
        write_random(
            tmp_path / name, SHAPES["tiny"], seed=3, dtype=torch.float32, shard_bytes=limit
        )
    return tmp_path / "whole", tmp_path / "parts"


def test_shards_are_one_checkpoint(sharded):
    whole, parts = (load_checkpoint(folder) for folder in sharded)
    assert isinstance(whole.model, LLaDA) and isinstance(parts.model, LLaDA)
    assert len(list(sharded[1].glob("*.safetensors"))) > 3
    assert not (sharded[1] / "model.safetensors").exists()
    for (name, a), (_, b) in zip(
        whole.model.state_dict().items(), parts.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    info, _ = inspect_checkpoint(sharded[1])
    assert (info.parameters, info.dtype) == (parts.info.parameters, "F32")


def test_index_with_wrong_names_is_refused(sharded):
    folder = sharded[1]
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = list(index["weight_map"])

    def claim(weight_map, words):
        path.write_text(json.dumps({"weight_map": weight_map}))
        refuse(folder, words)
        with pytest.raises(CheckpointError, match=words):
            inspect_checkpoint(folder)

    good = index["weight_map"]
    claim({**good, names[0]: good[names[-1]]}, "the index says so")
    claim({**good, names[0]: "../whole/model.safetensors"}, "not the name of a file")
    claim({**good, names[0]: "model-99999.safetensors"}, "model-99999.safetensors is missing")
    claim({k: v for k, v in good.items() if k != names[0]}, "1 tensors missing")
    claim({}, "weight_map is missing")


def test_the_published_8b_checkpoint_fits():
    """Names, shapes and count of LLaDA-8B, on the meta device."""
    manifest = json.loads((GOLDEN / "manifests" / "llada_8b.json").read_text())
    with torch.device("meta"):
        model = LLaDA(LLaDAConfig.from_dict({"model_type": "llada", **SHAPES["llada-8b"]}))
    expected = {name: shape for name, (shape, _) in manifest["state_dict"].items()}
    assert {n: list(t.shape) for n, t in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"]


def test_shapes_in_words(tmp_path):
    assert parse_shape("tiny, n_layers=4")["n_layers"] == 4
    assert parse_shape("llada-8b") == SHAPES["llada-8b"]
    for text, words in (("huge", "neither"), ("d_model=x", "no value for d_model")):
        with pytest.raises(CheckpointError, match=words):
            parse_shape(text)
    with pytest.raises(CheckpointError, match="d_model must be an even multiple"):
        write_random(tmp_path / "odd", {**SHAPES["tiny"], "d_model": 65})
    assert not (tmp_path / "odd").exists()


def test_a_random_model_must_hold_its_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="has 4454 ids, the model 512"):
        write_random(tmp_path / "r", parse_shape("tiny"), tokenizer=BUNDLED / "stories")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        write_random(tmp_path / "r", parse_shape("tiny"), tokenizer=tmp_path)
    assert not (tmp_path / "r").exists()
    shape = parse_shape("tiny,vocab_size=4455,mask_token_id=4454")
    write_random(tmp_path / "r", shape, tokenizer=BUNDLED / "stories")
    assert load_checkpoint(tmp_path / "r").tokenizer.vocab_size == 4454


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "unet"])
def test_a_shape_has_the_vocabulary_and_the_ids_of_its_tokenizer(tmp_path, family):
    stories = BUNDLED / "stories"
    own = json.loads((stories / "config.json").read_text())
    ids = {name: own[name] for name in ("vocab_size", "mask_token_id", "eos_token_id")}
    shape = parse_shape("tiny", family, stories)
    inner = FAMILIES[family].sizes_in
    sizes = shape[inner] if inner else shape
    assert {name: sizes[name] for name in ids} == ids
    field = f"{inner}.vocab_size" if inner else "vocab_size"
    other = parse_shape(f"tiny,{field}=5000", family, stories)
    assert (other[inner] if inner else other)["vocab_size"] == 5000
    write_random(tmp_path / "r", shape, family=family, tokenizer=stories)
    info, _ = inspect_checkpoint(tmp_path / "r")
    if info.canvas_length is not None:  # canvases of noise, without a mask
        ids["mask_token_id"] = None
    assert (info.vocab_size, info.mask_id, info.eos_id) == tuple(ids.values())
    bare = tmp_path / "bare"
    bare.mkdir()
    assert parse_shape("tiny", family, bare) == dict(FAMILIES[family].shapes["tiny"])
    (bare / "config.json").write_text('{"model_type": "x"}')
    with pytest.raises(CheckpointError, match="model_type is 'x'"):
        parse_shape("tiny", family, bare)
