"""Weights in bfloat16 with products in float32."""

import pytest
import torch
from torch import nn

from models import cpu
from models.base import DenoiserModule
from models.checkpoints.inspection import check_checkpoint
from models.checkpoints.load import load_checkpoint, load_divided_checkpoint, load_network
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from models.registry import FAMILIES
from models.widening import PIECE, WideningEmbedding, WideningLinear, compute_wide, linear

plain_cpu = pytest.mark.skipif(cpu.has_fast_bfloat16(), reason="bfloat16 is not widened")
WIDENING = ["llada", "dream", "sdar", "fast_dllm_v2"]


@pytest.fixture(scope="module", params=WIDENING)
def folder(request, tmp_path_factory):
    """A checkpoint of random weights in bfloat16."""
    place = tmp_path_factory.mktemp("widening") / request.param
    write_random(place, FAMILIES[request.param].shapes["tiny"], family=request.param)
    return place


@pytest.mark.parametrize("rows", [1, 16, 40])
@pytest.mark.parametrize("width", [8, 700, PIECE // 100])
def test_product_in_pieces_is_that_of_widened_weights(rows, width):
    g = torch.Generator().manual_seed(rows)
    weight = torch.randn(333, width, generator=g).bfloat16()
    x, bias = torch.randn(2, rows, width, generator=g), torch.randn(333, generator=g)
    expected = x.double() @ weight.double().T + bias.double()
    found = linear(x, weight, bias)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0, atol=2e-6 * width**0.5 * 4)


def test_network_of_narrow_weights_computes_as_one_of_wide_weights(folder):
    """As on a CPU without instructions for bfloat16, on any CPU."""
    wide = load_network(folder)
    narrow = load_network(folder)
    for module in narrow.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data = module.weight.data.bfloat16()
    compute_wide(narrow)
    kinds = {type(module) for module in narrow.modules()}
    assert {WideningLinear, WideningEmbedding} <= kinds
    assert not kinds & {nn.Linear, nn.Embedding}
    tokens, offsets = torch.arange(60) + 5, torch.tensor([0, 20, 60])
    hidden, expected = (n.trunk(tokens, offsets) for n in (narrow, wide))
    assert torch.allclose(hidden, expected, atol=1e-5)
    assert torch.allclose(narrow.head(hidden), wide.head(expected), atol=1e-4)


@plain_cpu
def test_checkpoint_in_bfloat16_has_half_of_the_bytes_and_the_same_numbers(folder):
    one, half = load_checkpoint(folder), load_checkpoint(folder, dtype="bfloat16")
    assert (half.info.dtype, half.arithmetic) == ("bfloat16", "float32")
    assert (one.info.dtype, one.arithmetic) == ("float32", "float32")
    tokens, offsets = torch.arange(30) + 5, torch.tensor([0, 30])
    found, expected = (c.model.head(c.model.trunk(tokens, offsets)) for c in (half, one))
    assert torch.allclose(found, expected, atol=1e-4)
    assert isinstance(one.model, DenoiserModule)
    assert isinstance(half.model, DenoiserModule)
    size = sum(
        t.nbytes for m in half.model.modules() for t in m.buffers(recurse=False) if t.dim() == 2
    )
    assert size == 2 * sum(p.numel() for p in one.model.parameters() if p.dim() == 2)


@plain_cpu
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(WIDENING)))
def test_network_that_does_not_widen_is_refused_before_its_weights_are_read(family, tmp_path):
    write_random(tmp_path / family, FAMILIES[family].shapes["tiny"], family=family)
    for load in (load_checkpoint, load_network, check_checkpoint):
        with pytest.raises(CheckpointError, match="'bfloat16': not for this kind of network"):
            load(tmp_path / family, dtype="bfloat16")


@plain_cpu
def test_divided_network_in_bfloat16_is_refused(folder):
    with pytest.raises(CheckpointError, match="several processes"):
        load_divided_checkpoint(folder, 2, lambda rank: None, dtype="bfloat16")
    with pytest.raises(CheckpointError, match="several processes"):
        check_checkpoint(folder, dtype="bfloat16", ranks=2)
