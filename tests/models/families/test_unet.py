"""The U-Net against the official code, its logits by another way, and its folders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models import registry
from models.checkpoints.convert import convert
from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError, UnsupportedConfig
from models.families.unet import UNet, parameter_names
from models.families.unet_config import UNET_SHAPES, UNetConfig
from models.images.layout import ImageShape
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step
from tests.support.paths import GOLDEN

PREFIX = "weights.backbone."
TINY = {
    "vocab_size": 19,
    "mask_token_id": 18,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "num_classes": 4,
    "image": {"height": 8, "width": 8, "channels": 3, "tokens": "bytes", "levels": 18},
}


@pytest.fixture(scope="module")
def official(golden) -> UNet:
    """The network whose weights a golden file holds."""
    tensors = golden("unet_tiny").tensors
    model = UNet(UNetConfig.from_dict(TINY)).requires_grad_(False)
    state = {k.removeprefix(PREFIX): t for k, t in tensors.items() if k.startswith(PREFIX)}
    model.load_state_dict(state)
    return model


def hidden(model: UNet, x: Tensor, labels: Tensor | None, rows: Tensor | None = None) -> Tensor:
    return model.trunk(x.flatten(), torch.arange(len(x) + 1) * x.shape[1], rows, labels)


@pytest.mark.parametrize("kind", ["cond", "null"])
def test_probabilities_are_the_official_ones(golden, official, kind):
    t = golden("unet_tiny").tensors
    x, labels, theirs = t["x"], t[f"cond.{kind}"], t[f"logits.t0.{kind}"]
    state = hidden(official, x, labels)
    assert state.shape == (x.numel(), 2)
    ours = official.head(state).unflatten(0, x.shape)
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=0, atol=1e-5)
    likely = theirs > -6
    torch.testing.assert_close(ours[likely], theirs[likely], rtol=0, atol=1e-4)
    if kind == "null":
        assert torch.equal(hidden(official, x, None), state)
        assert not torch.equal(hidden(official, x, t["cond.cond"]), state)


def test_logits_are_masses_of_equal_bins(official):
    """Against the distribution function of the logistic in float64, where bins weigh anything."""
    g = torch.Generator().manual_seed(0)
    state = torch.stack((torch.rand(50, generator=g) * 2 - 1, torch.randn(50, generator=g)), -1)
    mean, inverse = state[:, :1].double(), (2.0 - state[:, 1:].double()).exp()
    edges = torch.linspace(-1, 1, 20, dtype=torch.float64)
    mass = ((edges - mean) * inverse).sigmoid().diff(dim=-1)
    found = official.head(state).double().exp()
    assert (found - mass).abs().max() < 2e-6


def test_an_image_gets_the_same_bits_in_any_company(official):
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randint(19, (7, 192), generator=g), torch.randint(5, (7,), generator=g)
    together = hidden(official, x, labels).view(7, 192, 2)
    for count in (1, 2, 3):
        for i in range(8 - count):
            some = slice(i, i + count)
            found = hidden(official, x[some], labels[some])
            assert torch.equal(found, together[some].flatten(0, 1))
    rows = torch.randperm(7 * 192, generator=g)[:40]
    assert torch.equal(hidden(official, x, labels, rows), together.flatten(0, 1)[rows])


def test_canvases_that_are_no_images_are_refused(official):
    with pytest.raises(ValueError, match="192 tokens"):
        official.trunk(torch.zeros(193).long(), torch.tensor([0, 193]))


def test_the_published_size_fits():
    """Names, shapes, count and the order of unnamed averages, on the meta device."""
    manifest = json.loads((GOLDEN / "manifests" / "unet_cifar10_cond.json").read_text())
    model = registry.build({"model_type": "unet"}, None).network
    expected = {name: dims for name, (dims, _) in manifest["state_dict"].items()}
    assert {f"backbone.{n}": list(t.shape) for n, t in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"]
    assert [f"backbone.{n}" for n in parameter_names()] == manifest["ema_shadow_order"]


@pytest.fixture
def folder(tmp_path):
    write_random(tmp_path / "u", UNET_SHAPES["tiny"], family="unet", dtype=torch.float32)
    return tmp_path / "u"


def test_a_folder_makes_images(folder):
    loaded = load_checkpoint(folder)
    info = loaded.info
    assert (info.family, info.vocab_size, info.mask_id, info.classes) == ("unet", 259, 256, 10)
    assert (info.image, info.max_length) == (ImageShape(8, 8, 3, "bytes", 256), 192)
    assert info.parameters == inspect_checkpoint(folder)[0].parameters
    for name, spec in SAMPLERS.items():
        sampler = spec.make(info.vocab_size, info.mask_id, loaded.ends)
        params = [
            make_params(steps=3, sampler=name, class_label=y, guidance_scale=w, seed=y)
            for y, w in ((3, 2.0), (7, 1.0))
        ]
        batch = sampler.begin(CanvasBatch.of([([0] * 192, [True] * 192, p) for p in params]))
        for _ in range(params[0].calls):
            batch = take_step(sampler, loaded.model, batch).batch
        assert not bool((batch.tokens == info.mask_id).any())
        images = loaded.pixels(batch.tokens.view(2, 192))
        assert images.shape == (2, 8, 8, 3) and len(images.unique()) > 50


def test_published_forms_make_folders(folder, tmp_path):
    """A training checkpoint, by names; the list of averages has the published size alone."""
    state = load_file(folder / "model.safetensors")
    named = {f"backbone.{name}": t for name, t in state.items()}
    torch.save({"state_dict": named}, tmp_path / "last.ckpt")
    shape = UNET_SHAPES["tiny"]
    info = convert(tmp_path / "last.ckpt", tmp_path / "out", mixing_ratio=0.1, config=shape)
    assert info.family == "unet"
    ids = torch.arange(192) % 259
    before, after = (load_checkpoint(f).model for f in (folder, tmp_path / "out"))
    offsets = torch.tensor([0, 192])
    assert torch.equal(before.trunk(ids, offsets), after.trunk(ids, offsets))
    with torch.device("meta"):
        count = len(UNet(UNetConfig()).state_dict())
    shadows = [torch.zeros(2)] * count
    torch.save({"ema": {"decay": 0.9, "shadow_params": shadows}}, tmp_path / "ema.ckpt")
    with pytest.raises(CheckpointError, match=r"is \[2\], expected"):
        convert(tmp_path / "ema.ckpt", tmp_path / "more", mixing_ratio=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ch": 48}, "ch must be a multiple"),
        ({"ch": "128"}, "ch must be a positive integer"),
        ({"ch_mult": 3}, "ch_mult must be a list"),
        ({"ch_mult": [1, 0]}, r"ch_mult\[1\]"),
        ({"ch_mult": [1, 1, 1, 1, 1]}, "multiples of 16"),
        ({"num_res_blocks": 10**6}, "num_res_blocks"),
        ({"attention_scale": 2}, "attention_scale"),
        ({"mask_token_id": 19}, "mask_token_id"),
        ({"mask_token_id": 17}, "image.levels"),
        ({"time_conditioning": True}, "time_conditioning"),
        ({"fix_logistic": True}, "fix_logistic"),
        ({"image": 3}, "image must be an object"),
        ({"image": TINY["image"] | {"channels": 1, "tokens": "grey levels"}}, "image.tokens"),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(changes, words):
    with pytest.raises(UnsupportedConfig, match=words):
        UNetConfig.from_dict(TINY | changes)
