"""Weights in int8: close to those they stand for, by both ways of multiplying."""

import pytest
import torch
from torch import nn

from models.bundled import BUNDLED
from models.checkpoints.inspection import check_checkpoint
from models.checkpoints.load import load_checkpoint, load_divided_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from models.int8 import FEW, Int8Linear, quantised
from models.registry import FAMILIES
from models.widening import WideningEmbedding


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 1e4])
def test_entries_are_within_half_a_step_of_the_weights(size):
    weight = size * torch.randn(50, 70, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    entries, scale = quantised(weight)
    assert (entries.dtype, scale.dtype) == (torch.int8, torch.bfloat16)
    step = scale.double()[:, None]
    error = (entries.double() * step - weight.double()).abs()
    # the greatest entries may be cut by what rounding took from the scale
    assert (error <= step * (0.5 + 127 * 2**-8)).all()
    assert (error.flatten() <= step.expand(-1, 70).flatten() * 0.51).float().mean() > 0.99
    assert entries[3].eq(0).all()


@pytest.mark.parametrize("width", [64, 70, 2048])
@pytest.mark.parametrize("rows", [1, FEW, FEW + 1, 40])
def test_product_is_that_of_the_integers_times_the_scales(width, rows):
    g = torch.Generator().manual_seed(rows)
    weight, x = torch.randn(300, width, generator=g), torch.randn(2, rows, width, generator=g)[0]
    layer = nn.Linear(width, 300).requires_grad_(False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    entries, scale = quantised(weight)
    narrow = Int8Linear(layer)
    found = narrow(x[None])
    assert (found.shape, found.dtype) == ((1, rows, 300), torch.float32)
    exact = x.double() @ (entries.double() * scale.double()[:, None]).T + layer.bias.double()
    few = rows <= FEW and width % 32 == 0
    # bfloat16 rounds each input and each result by at most 2^-9
    rounding = 2**-8 if few else 1e-6
    bound = rounding * (x.abs().double() @ (entries.abs().double() * scale.double()[:, None]).T + 1)
    assert ((found[0].double() - exact).abs() <= bound).all()
    assert narrow(x[:0]).shape == (0, 300)


@pytest.mark.parametrize("rows", [5, 40])
def test_stories_in_int8_expects_much_the_same_tokens(rows):
    one = load_checkpoint(BUNDLED / "stories")
    narrow = load_checkpoint(BUNDLED / "stories", dtype="int8")
    assert (narrow.info.dtype, narrow.arithmetic) == ("int8", "float32")
    kinds = {type(m) for m in narrow.model.modules()}  # pyright: ignore
    assert {Int8Linear, WideningEmbedding} <= kinds
    assert not kinds & {nn.Linear, nn.Embedding}
    ids = one.tokenizer.encode("Once upon a time there was a little dog who liked to run and play.")
    tokens = torch.tensor((ids * 4)[:rows])
    offsets = torch.tensor([0, rows])
    logs = [
        c.model.head(c.model.trunk(tokens, offsets)).double().log_softmax(-1) for c in (one, narrow)
    ]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    assert divergence.mean() < 0.01
    assert divergence.max() < 0.1
    assert divergence.max() > 0


@pytest.mark.parametrize("family", ["dit", "unet", "sdar_moe"])
def test_network_that_does_not_widen_is_refused(family, tmp_path):
    write_random(tmp_path / family, FAMILIES[family].shapes["tiny"], family=family)
    for load in (load_checkpoint, check_checkpoint):
        with pytest.raises(CheckpointError, match="dtype is 'int8': not for this kind of network"):
            load(tmp_path / family, dtype="int8")


def test_divided_network_is_refused():
    with pytest.raises(CheckpointError, match="several processes"):
        load_divided_checkpoint(BUNDLED / "stories", 2, lambda rank: None, dtype="int8")
