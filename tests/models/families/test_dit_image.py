"""The class-conditional DiT against the official code, its labels, and its folders."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from models import registry
from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import UnsupportedConfig
from models.families.dit import INV_FREQ, DiT, parameter_names
from models.families.dit_config import DIT_SHAPES, DiTConfig, stored_sizes
from models.images.layout import ImageShape
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step
from tests.support.paths import GOLDEN

PREFIX = "weights.backbone."


def official(file, mask_id: int) -> DiT:
    """The network whose weights a golden file holds."""
    state = {k[len(PREFIX) :]: t for k, t in file.tensors.items() if k.startswith(PREFIX)}
    frequencies = state.pop(INV_FREQ)
    image = {"height": 3, "width": 4, "channels": 1, "tokens": "grey levels", "levels": 30}
    said = {"model_length": 12, "n_heads": 4, "mask_token_id": mask_id, "image": image}
    sizes = stored_sizes({name: tuple(t.shape) for name, t in state.items()})
    model = DiT(DiTConfig.from_dict(said, sizes)).requires_grad_(False)
    model.load_state_dict(state)
    assert torch.equal(model.derived()[INV_FREQ], frequencies)
    return model


def logits(model: DiT, x: Tensor, labels: Tensor | None) -> Tensor:
    """[B, L] and labels [B] -> [B, L, V], all sequences in one pass."""
    offsets = torch.arange(len(x) + 1) * x.shape[1]
    return model.head(model.trunk(x.flatten(), offsets, None, labels)).unflatten(0, x.shape)


def test_logits_are_the_official_ones(golden):
    file = golden("dit_image_tiny")
    model, x = official(file, 40), file.tensors["x"]
    assert model.classes == file.meta["config"]["null_class"] == 5
    before = {kind: logits(model, x, file.tensors[f"cond.{kind}"]) for kind in ("cond", "null")}
    model.fold()
    for kind, unfolded in before.items():
        ours = logits(model, x, file.tensors[f"cond.{kind}"])
        theirs = file.tensors[f"logits.sigma0.{kind}"]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
        torch.testing.assert_close(ours, unfolded, rtol=0, atol=1e-4)
    null = logits(model, x, file.tensors["cond.null"])
    assert torch.equal(logits(model, x, None), null)
    assert (before["cond"] - before["null"]).abs().max() > 1e-2


def test_an_official_run_step_by_step(golden):
    file = golden("traj_xdlm_img_nocfg")
    model = official(file, 30)
    model.fold()
    x, labels = file.tensors["step_x"], file.tensors["cond"]
    ours = logits(model, x.flatten(0, 1), labels.repeat(len(x))).unflatten(0, x.shape[:2])
    torch.testing.assert_close(ours, file.tensors["model_out"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
def test_a_guided_step_of_the_official_network(golden, scale):
    """One step that fills all masks with the likeliest ids: against (1 + gamma) log p(label) -
    gamma log p(no label) of two separate passes, the mask suppressed behind.
    """
    file = golden("traj_xdlm_img_nocfg")
    model, x = official(file, 30), file.tensors["step_x"][0]
    model.fold()
    x, labels = torch.where(torch.arange(12) % 3 == 0, x, 30), file.tensors["cond"]
    cond, uncond = (logits(model, x, y).log_softmax(-1) for y in (labels, None))
    guided = scale * cond - (scale - 1) * uncond
    p = guided.index_fill(-1, torch.tensor([30]), -torch.inf).softmax(-1)
    sampler = SAMPLERS["topk"].make(33, 30, ())
    chosen = {"sampler": "topk", "steps": 1, "mixing_ratio": 0.0, "temperature": 0.0}
    batch = CanvasBatch.of(
        [
            (
                row.tolist(),
                [True] * 12,
                make_params(class_label=y, guidance_scale=scale, **chosen),
            )
            for row, y in zip(x, labels.tolist(), strict=True)
        ]
    )
    result = take_step(sampler, model, batch)
    expected = torch.where(x == 30, p.argmax(-1), x)
    assert torch.equal(result.batch.tokens, expected.flatten())
    confidence = p.amax(-1)[x == 30].double()
    torch.testing.assert_close(result.change.confidence, confidence, rtol=0, atol=2e-5)
    assert result.forwards.tolist() == [1 + (scale != 1.0)] * 2


def test_the_published_size_fits():
    """Names, shapes, count and the order of unnamed averages, on the meta device."""
    path = GOLDEN / "manifests" / "dit_small_imagenet_llamagen.json"
    manifest = json.loads(path.read_text())
    model = registry.build({"model_type": "dit", **DIT_SHAPES["small-imagenet"]}, None).network
    ours = model.state_dict() | model.derived()
    expected = {name: dims for name, (dims, _) in manifest["state_dict"].items()}
    assert {f"backbone.{n}": list(t.shape) for n, t in ours.items()} == expected
    assert sum(p.numel() for p in model.parameters()) == manifest["n_params"]
    order = [f"backbone.{n}" for n in parameter_names(manifest["blocks"], with_labels=True)]
    assert order == manifest["ema_shadow_order"]


@pytest.fixture(scope="module")
def tiny() -> DiT:
    torch.manual_seed(1)
    model = DiT(DiTConfig.from_dict(DIT_SHAPES["tiny-image"])).requires_grad_(False)
    model.fold()
    return model


def test_a_sequence_gets_the_same_bits_in_any_company(tiny):
    g = torch.Generator().manual_seed(0)
    lengths = [1, 5, 16, 64, 65, 100, 144, 144, 144, 144]
    sequences = [torch.randint(8, (n,), generator=g) for n in lengths]
    labels = torch.randint(11, (len(lengths),), generator=g)

    def packed(which: list[int]) -> list[Tensor]:
        counts = [lengths[i] for i in which]
        offsets = torch.tensor([0, *counts]).cumsum(0)
        tokens = torch.cat([sequences[i] for i in which])
        return list(tiny.trunk(tokens, offsets, None, labels[which]).split(counts))

    alone = [packed([i])[0] for i in range(len(lengths))]
    for _ in range(12):
        count = int(torch.randint(2, 11, (1,), generator=g))
        some = torch.randperm(len(lengths), generator=g)[:count].tolist()
        for i, hidden in zip(some, packed(some), strict=True):
            assert torch.equal(hidden, alone[i])
    tokens, offsets = torch.cat(sequences), torch.tensor([0, *lengths]).cumsum(0)
    rows = torch.randperm(len(tokens), generator=g)[:50]
    assert torch.equal(tiny.trunk(tokens, offsets, rows, labels), torch.cat(alone)[rows])


def test_a_text_network_takes_no_labels():
    with torch.device("meta"):
        text = DiT(DiTConfig.from_dict(DIT_SHAPES["tiny"]))
    assert text.classes == 0
    with pytest.raises(ValueError, match="no labels"):
        text.trunk(torch.zeros(3).long(), torch.tensor([0, 3]), None, torch.tensor([0]))


def test_facts(tmp_path):
    shape = DIT_SHAPES["tiny-image"]
    write_random(tmp_path / "digits", shape, family="dit", dtype=torch.float32)
    loaded = load_checkpoint(tmp_path / "digits")
    info = loaded.info
    assert info == load_checkpoint(tmp_path / "digits").info
    assert (info.classes, info.eos_id, info.mask_id, loaded.ends) == (10, None, 8, ())
    assert info.image == ImageShape(12, 12, 1, "grey levels", 8)
    assert info.max_length == 144
    before = inspect_checkpoint(tmp_path / "digits")[0]
    assert before.parameters == info.parameters and before.image == info.image


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_length": 145}, "model_length is 145, an image has 144 tokens"),
        ({"image": 3}, "image must be an object"),
        ({"image": {"height": 12}}, "image.width"),
        ({"image.levels": 9}, "image.levels: the mask"),
        ({"image.levels": 1}, "image.levels must lie"),
        ({"image.channels": 3}, "image.channels is 3"),
        ({"image.tokens": "colours"}, "image.tokens must be one of"),
        ({"image.height": -12}, "image.height must be a positive integer"),
        ({"image.scale": 2}, "image.scale is 2"),
        ({"image.depth": 2}, "image.depth is not known"),
        ({"num_classes": -1}, "num_classes"),
        ({"image": None}, "eos_token_id"),
    ],
)
def test_configs_that_make_no_image_are_refused_by_name(changes, words):
    fields = json.loads(json.dumps(DIT_SHAPES["tiny-image"]))
    for name, value in changes.items():
        inner = name.removeprefix("image.")
        if inner == name:
            fields[name] = value
        else:
            fields["image"][inner] = value
    with pytest.raises(UnsupportedConfig, match=words):
        DiTConfig.from_dict(fields)


def test_published_vocabulary_needs_no_image():
    config = DiTConfig.from_dict(DIT_SHAPES["small-imagenet"])
    assert (config.mask_token_id, config.eos_token_id, config.num_classes) == (16384, None, 1000)
    assert config.image is not None and config.image.size == (256, 256)
    assert DiTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
