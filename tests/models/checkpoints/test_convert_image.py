"""Published image checkpoints become folders: labels, unnamed averages, the decoder of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from models.checkpoints.convert import convert
from models.checkpoints.load import load_checkpoint
from models.errors import CheckpointError
from models.families.dit import DiT, parameter_names
from models.families.dit_config import DiTConfig
from models.images.layout import ImageShape
from server.cli.app import app
from tests.models.images.test_vq_decoder import CODEC, stored

SIZES = {
    "model_length": 16,
    "n_heads": 4,
    "n_blocks": 2,
    "hidden_dim": 32,
    "cond_dim": 16,
    "vocab_size": 67,
    "mask_token_id": 64,
    "num_classes": 5,
    "image": CODEC,
}
TOLD = {"model_length": 16, "n_heads": 4, "mask_token_id": 64, "image": CODEC}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {n: t.clone() for n, t in DiT(DiTConfig.from_dict(SIZES)).state_dict().items()}


def logits(model) -> Tensor:
    tokens, offsets = torch.arange(32), torch.tensor([0, 16, 32])
    return model.head(model.trunk(tokens, offsets, None, torch.tensor([3, 5])))


@pytest.fixture
def tokenizer(golden, tmp_path):
    """As published: weights of the whole tokenizer under ``model``, with counters."""
    rest = {"encoder.conv_in.weight": torch.zeros(2, 2), "quant_conv.bias": torch.zeros(8)}
    counter = {"quantize.codebook_used": torch.zeros(9, dtype=torch.int64)}
    path = tmp_path / "vq_ds16_c2i.pt"
    torch.save({"model": stored(golden("vq_decoder_tiny")) | rest | counter}, path)
    return path


def test_averages_without_names_and_a_decoder_make_a_folder(tmp_path, state, tokenizer, golden):
    shadows = [state[name] for name in parameter_names(2, with_labels=True)]
    torch.save({"ema": {"decay": 0.9, "shadow_params": shadows}}, tmp_path / "ema.ckpt")
    options: dict[str, Any] = {"mixing_ratio": 0.1, "config": TOLD}
    info = convert(tmp_path / "ema.ckpt", tmp_path / "out", decoder=tokenizer, **options)
    assert (info.classes, info.image) == (5, ImageShape(4, 4, 3, "vq", 64, 2))
    loaded = load_checkpoint(tmp_path / "out")
    model = DiT(DiTConfig.from_dict(SIZES)).requires_grad_(False)
    model.load_state_dict(state)
    model.fold()
    assert torch.equal(logits(loaded.model), logits(model))
    assert (
        load_file(tmp_path / "out" / "vq.safetensors").keys()
        == stored(golden("vq_decoder_tiny")).keys()
    )
    ids = torch.arange(16)[None]
    images = loaded.pixels(ids)
    assert images.shape == (1, 8, 8, 3)
    # the folder is a source like any other, and its decoder comes along
    convert(tmp_path / "out", tmp_path / "again")
    assert torch.equal(load_checkpoint(tmp_path / "again").pixels(ids), images)
    options["config"] = TOLD | {"raw_codebook": True}
    convert(tmp_path / "ema.ckpt", tmp_path / "raw", decoder=tokenizer, **options)
    assert not torch.equal(load_checkpoint(tmp_path / "raw").pixels(ids), images)


def test_a_training_checkpoint_with_the_tokenizer_inside(tmp_path, state):
    codec = {"image_tokenizer.vae.decoder.conv_in.weight": torch.zeros(3)}
    named = {f"backbone.{n}": t for n, t in state.items()} | codec
    torch.save({"state_dict": named}, tmp_path / "last.ckpt")
    info = convert(tmp_path / "last.ckpt", tmp_path / "out", mixing_ratio=0.1, config=TOLD)
    assert info.classes == 5 and not (tmp_path / "out" / "vq.safetensors").exists()


def test_decoders_that_do_not_fit_leave_nothing_behind(tmp_path, state, tokenizer, golden):
    save_file(state, tmp_path / "dit.safetensors")
    good = stored(golden("vq_decoder_tiny"))

    def refuse(content: object, words: str, **told) -> None:
        torch.save(content, tokenizer)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(CheckpointError, match=words) as caught:
            convert(
                tmp_path / "dit.safetensors",
                tmp_path / "out",
                mixing_ratio=0.1,
                config=TOLD | told,
                decoder=tokenizer,
            )
        assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == before

    refuse({"model": {}}, "not a decoder")
    refuse([], "not a decoder")
    refuse({"model": {n: t for n, t in good.items() if "conv_in" not in n}}, "tensors missing")
    refuse({"model": good | {"decoder.x": "text"}}, "no dense tensor")
    refuse({"model": good}, "64 codes of 2 pixels", image=CODEC | {"scale": 4})
    grey = {"height": 4, "width": 4, "channels": 1, "tokens": "grey levels", "levels": 64}
    refuse({"model": good}, "makes none", image=grey)


def test_on_the_command_line(tmp_path, state, tokenizer):
    save_file(state, tmp_path / "dit.safetensors")
    image = "model_length=16,n_heads=4,mask_token_id=64"
    arguments = [str(tmp_path / "dit.safetensors"), str(tmp_path / "out"), "--mixing-ratio", "0.1"]
    run = CliRunner().invoke(app, ["convert", *arguments, "--config", image])
    assert run.exit_code == 1 and "eos_token_id" in run.output
    grid = 'image.height=4,image.width=4,image.channels=3,image.tokens="vq",image.levels=64'
    told = ["--vq", str(tokenizer), "--config", f"{image},{grid},image.scale=2"]
    run = CliRunner().invoke(app, ["convert", *arguments, *told])
    assert run.exit_code == 0, run.output
    assert load_checkpoint(tmp_path / "out").pixels(torch.zeros(1, 16).long()).shape[1:3] == (8, 8)
    run = CliRunner().invoke(app, ["info", str(tmp_path / "out")])
    assert run.exit_code == 0 and "vq" in run.output and "classes  5" in run.output
