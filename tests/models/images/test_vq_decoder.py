"""The decoder of image tokens against the official code, its file, and ids as pixels."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError, UnsupportedConfig
from models.families.dit_config import DIT_SHAPES
from models.images.layout import ImageShape
from models.images.pixels import pixels
from models.images.vq_decoder import PARTS, VQConfig, VQDecoder
from tests.support.paths import GOLDEN

CODEC = {"height": 4, "width": 4, "channels": 3, "tokens": "vq", "levels": 64, "scale": 2}


def stored(file) -> dict[str, Tensor]:
    return {k.removeprefix("weights."): t for k, t in file.tensors.items() if "weights." in k}


def official(file, raw_codebook: bool) -> VQDecoder:
    state = stored(file)
    config = VQConfig.stored({name: t.shape for name, t in state.items()})
    decoder = VQDecoder(config, raw_codebook).requires_grad_(False)
    decoder.load_state_dict({n: t.clone() for n, t in state.items()})
    decoder.ready(torch.device("cpu"))
    return decoder


@pytest.mark.parametrize("kind", ["raw", "l2"])
def test_images_are_the_official_ones(golden, kind, caplog):
    file = golden("vq_decoder_tiny")
    decoder = official(file, kind == "raw")
    assert ("normalised" in caplog.text) == (kind == "l2")
    ids, theirs = file.tensors["codes"].view(2, 4, 4), file.tensors[f"img_{kind}codebook"]
    torch.testing.assert_close(decoder.image(ids), theirs, rtol=0, atol=2e-5)
    expected = ((theirs.double() + 1) * 255 / 2).clamp(0, 255)
    ours = decoder.decode(ids)
    assert ours.dtype == torch.uint8 and ours.shape == (2, 8, 8, 3)
    assert (ours.movedim(-1, 1).double() - expected.floor()).abs().max() <= 1
    assert (ours.movedim(-1, 1) == expected.floor()).double().mean() > 0.99
    many = ids.repeat(9, 1, 1)
    assert torch.equal(decoder.decode(many), ours.repeat(9, 1, 1, 1))
    assert torch.equal(decoder.decode(torch.full((1, 4, 4), 66)), decoder.decode(0 * ids[:1] + 63))


def test_rows_of_length_1_stay_as_they_are(golden, caplog):
    state = stored(golden("vq_decoder_tiny"))
    table = torch.nn.functional.normalize(state["quantize.embedding.weight"])
    decoder = VQDecoder(VQConfig.stored({name: t.shape for name, t in state.items()}))
    decoder.requires_grad_(False)
    decoder.load_state_dict(state | {"quantize.embedding.weight": 1.0005 * table})
    decoder.ready(torch.device("cpu"))
    assert torch.equal(decoder.quantize.embedding.weight, 1.0005 * table) and not caplog.text


def test_the_published_size_fits():
    """Names and shapes; what is left over is the encoder and a counter."""
    manifest = json.loads((GOLDEN / "manifests" / "vq16_llamagen.json").read_text())
    shapes = {name: dims for name, (dims, _) in manifest["state_dict"].items()}
    config = VQConfig.stored(shapes)
    assert config == VQConfig(16384, 8, 256, (512, 256, 256, 128, 128), 3) and config.scale == 16
    with torch.device("meta"):
        ours = VQDecoder(config).state_dict()
    expected = {n: dims for n, dims in shapes.items() if n.startswith(PARTS)}
    assert {n: list(t.shape) for n, t in ours.items()} == expected
    rest = {n.split(".")[0] for n in shapes.keys() - ours.keys()}
    assert rest == {"encoder", "quant_conv", "quantize"}


@pytest.fixture
def folder(tmp_path, golden):
    """A random network over the codes of the tiny decoder."""
    shape = DIT_SHAPES["tiny-image"] | {"vocab_size": 67, "mask_token_id": 64, "image": CODEC}
    write_random(tmp_path / "m", shape | {"model_length": 16}, family="dit", dtype=torch.float32)
    save_file(stored(golden("vq_decoder_tiny")), tmp_path / "m" / "vq.safetensors")
    return tmp_path / "m"


def test_a_folder_with_its_decoder(folder, golden, caplog):
    file = golden("vq_decoder_tiny")
    with caplog.at_level(logging.WARNING):
        loaded = load_checkpoint(folder)
    assert "normalised" in caplog.text
    ids = file.tensors["codes"]
    assert torch.equal(loaded.pixels(ids), official(file, False).decode(ids.view(2, 4, 4)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"raw_codebook": True}))
    raw = load_checkpoint(folder).pixels(ids)
    assert torch.equal(raw, official(file, True).decode(ids.view(2, 4, 4)))
    (folder / "vq.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no vq\.safetensors"):
        load_checkpoint(folder).pixels(ids)


def test_decoders_that_do_not_fit_are_refused(folder):
    path = folder / "vq.safetensors"
    good = load_file(path)

    def refuse(state: dict[str, Tensor], words: str) -> None:
        save_file(state, path)
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(folder)

    refuse({k: t for k, t in good.items() if k != "decoder.conv_in.bias"}, "decoder.conv_in.bias")
    refuse(good | {"encoder.x": torch.zeros(2)}, "1 unknown tensors, first encoder.x")
    refuse({"quantize.embedding.weight": torch.zeros(64, 8)}, "not a decoder")
    refuse(good | {"quantize.embedding.weight": torch.ones(65, 8)}, "65 codes of 2 pixels")
    refuse(good | {"decoder.conv_out.bias": torch.full((3,), torch.nan)}, "not finite")
    with pytest.raises(UnsupportedConfig, match="cannot be built"):
        VQConfig.stored({k: [33 if d == 32 else d for d in t.shape] for k, t in good.items()})


def test_grey_levels_and_bytes_as_pixels():
    grey = ImageShape(2, 3, 1, "grey levels", 8)
    ids = torch.tensor([[0, 1, 2, 6, 7, 8]])
    assert pixels(ids, grey, None)[0, :, :, 0].tolist() == [[0, 36, 73], [219, 255, 128]]
    colours = ImageShape(1, 2, 3, "bytes", 256)
    ids = torch.tensor([[1, 2, 30, 40, 255, 256], [0, 258, 7, 8, 9, 10]])
    found = pixels(ids, colours, None)
    assert found.tolist() == [[[[1, 30, 255], [2, 40, 128]]], [[[0, 7, 9], [128, 8, 10]]]]
    with pytest.raises(ValueError, match="an image has 6"):
        pixels(ids[:, :5], colours, None)


def test_a_text_has_no_pixels(tmp_path):
    write_random(tmp_path / "t", DIT_SHAPES["tiny"], family="dit", dtype=torch.float32)
    with pytest.raises(CheckpointError, match="makes no images"):
        load_checkpoint(tmp_path / "t").pixels(torch.zeros(1, 5).long())
