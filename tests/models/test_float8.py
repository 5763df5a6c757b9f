"""Weights in float8: close to those they stand for, and accurate enough for the bundled models."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from models.bundled import BUNDLED
from models.checkpoints.inspection import check_checkpoint
from models.checkpoints.load import load_checkpoint, load_divided_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from models.float8 import GREATEST, KIND, Float8Linear, scaled
from models.registry import FAMILIES
from recipes.stories.batches import encode
from recipes.stories.corpus import read_corpus, split
from recipes.stories.validation import nelbo
from sampler.noise_kernel import NoiseKernel
from tests.support.effort import count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e4])
def test_rows_are_rounded_to_four_bits_of_their_entries(size, dtype):
    rows = (size * torch.randn(50, 70, generator=torch.Generator().manual_seed(0))).to(dtype)
    rows[3] = 0
    entries, scale = scaled(rows)
    assert (entries.dtype, scale.dtype, scale.shape) == (KIND, torch.float32, (50, 1))
    found, exact = entries.double() * scale.double(), rows.double()
    least = 2.0**-10 * scale.double()  # half of the least number of the format
    assert ((found - exact).abs() <= 2**-4 * exact.abs() * (1 + 1e-6) + least).all()
    assert entries[3].float().eq(0).all()
    assert entries.float().abs().amax(1)[[0, 1, 2, 4]].eq(GREATEST).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_product_is_that_of_the_rounded_rows_and_weights(rows, bias):
    g = torch.Generator().manual_seed(rows)
    layer = nn.Linear(64, 96, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(2, rows, 64, generator=g).bfloat16()
    weight, weight_scale = scaled(layer.weight.detach())
    entries, scale = scaled(x.reshape(-1, 64))
    exact = (entries.double() * scale) @ (weight.double() * weight_scale).T
    if layer.bias is not None:
        exact += layer.bias.detach().double()
    found = Float8Linear(layer)(x)
    assert (found.shape, found.dtype) == ((2, rows, 96), torch.bfloat16)
    magnitudes = (entries.double().abs() * scale) @ (weight.double().abs() * weight_scale).T + 1
    assert ((found.view(-1, 96).double() - exact).abs() <= 2**-8 * magnitudes).all()


def test_stories_in_float8_lose_at_most_a_fiftieth_of_a_nat():
    """The same noise for both; 0.002 nats were measured on 48 stories."""
    _, held = split(read_corpus())
    tokenizer = Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json"))
    kernel = NoiseKernel(0.1, 4454, 4453)
    canvases = encode(held, tokenizer)[: count(8, 128)]
    whole, narrow = (load_checkpoint(BUNDLED / "stories", dtype=d) for d in ("float32", "float8"))
    assert (narrow.info.dtype, narrow.arithmetic) == ("float8", "bfloat16")
    found, expected = (
        nelbo(c.model, canvases, kernel, 1)["nats_per_position"]  # pyright: ignore[reportArgumentType]
        for c in (narrow, whole)
    )
    assert 0 < abs(found - expected) < 0.02


@pytest.mark.parametrize(
    "name, part", [("stories", "model.transformer.blocks."), ("digits", "blocks.")]
)
def test_blocks_are_narrow_and_the_rest_is_not(name, part):
    network = load_checkpoint(BUNDLED / name, dtype="float8").model
    assert isinstance(network, nn.Module)
    kinds = {n: type(m) for n, m in network.named_modules() if hasattr(m, "weight")}
    narrow = {n for n, kind in kinds.items() if kind is Float8Linear}
    linear = {n for n, kind in kinds.items() if "Linear" in kind.__name__}
    assert narrow and narrow == {n for n in linear if n.startswith(part)}
    assert len(linear) == len(narrow) + 1  # the head


@pytest.mark.parametrize("family", ["unet", "sdar_moe", "diffusion_gemma"])
def test_network_without_linear_layers_for_all_its_products_is_refused(family, tmp_path):
    write_random(tmp_path / family, FAMILIES[family].shapes["tiny"], family=family)
    for load in (load_checkpoint, check_checkpoint):
        with pytest.raises(CheckpointError, match="dtype is 'float8': not for this kind of"):
            load(tmp_path / family, dtype="float8")


def test_divided_network_is_refused():
    with pytest.raises(CheckpointError, match="several processes"):
        load_divided_checkpoint(BUNDLED / "stories", 2, lambda rank: None, dtype="float8")
