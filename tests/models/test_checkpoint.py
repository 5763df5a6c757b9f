"""Checkpoint folders: what is loaded, and one line for everything that is not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import checkpoint as checkpoints
from models.bundled import BUNDLED, bundled_names
from models.checkpoint import CheckpointError
from tests.server.conftest import write_tiny


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "tiny")


def refuse(folder, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)


def test_the_bundled_checkpoint_loads():
    assert "stories" in bundled_names()
    loaded = checkpoints.load(checkpoints.find("stories"))
    assert loaded.info.family == "llada" and loaded.info.mask_id == loaded.info.vocab_size - 1
    assert loaded.defaults["mixing_ratio"] == 0.1
    size = sum(p.stat().st_size for p in (BUNDLED / "stories").glob("*.*"))
    assert size <= 20_000_000


def test_facts(folder):
    info = checkpoints.load(folder).info
    assert (info.name, info.dtype, info.max_length) == ("tiny", "float32", 256)
    state = load_file(folder / "model.safetensors")
    assert info.parameters == sum(t.numel() for t in state.values())


def test_bfloat16_where_it_is_fast(folder):
    if not checkpoints.cpu_has_fast_bfloat16():
        with pytest.raises(CheckpointError, match="bfloat16"):
            checkpoints.load(folder, dtype="bfloat16")
        return
    loaded = checkpoints.load(folder, dtype="bfloat16")
    hidden = loaded.model.trunk(torch.arange(30), torch.tensor([0, 30]))
    exact = checkpoints.load(folder).model.trunk(torch.arange(30), torch.tensor([0, 30]))
    assert hidden.dtype == torch.bfloat16
    assert (hidden.float() - exact).abs().max() < 0.25


def test_names_that_are_nothing():
    with pytest.raises(CheckpointError, match=r"bundled ones: .*stories"):
        checkpoints.find("no/such/place")
    with pytest.raises(CheckpointError, match="unknown device"):
        checkpoints.load(BUNDLED / "stories", device="abacus")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
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
