"""Packed linear layers: the same results, the same bits for any number of rows, nothing else."""

from __future__ import annotations

import copy
import weakref
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import cpu, packed
from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.families.dit import DiT
from models.families.dit_config import DiTConfig
from models.families.llada import LLaDA, LLaDAConfig
from models.packed import PackedLinear, pack, pack_layer


@pytest.mark.parametrize(("inner", "outer", "bias"), [(2048, 2050, False), (1030, 4100, True)])
def test_a_packed_layer_gives_the_results_of_the_layer(inner, outer, bias):
    torch.manual_seed(0)
    layer = nn.Linear(inner, outer, bias=bias).requires_grad_(False)
    other, x = PackedLinear(layer.weight, layer.bias), torch.randn(3, 5, inner)
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=2e-5)
    assert other(x[:, :0]).shape == (3, 0, outer)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_with_any_number_of_others(threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for inner, outer in ((2048, 2048), (288, 288), (768, 288), (512, 8192), (1030, 4100)):
            layer = PackedLinear(nn.Linear(inner, outer, bias=False).weight)
            x = torch.randn(300, inner)
            whole = layer(x)
            for count in (1, 2, 3, 7, 16, 17, 33, 64, 100, 255):
                for start in (0, 300 - count):
                    rows = slice(start, start + count)
                    assert torch.equal(layer(x[rows]), whole[rows])
    finally:
        torch.set_num_threads(before)


def test_large_matrices_alone_are_packed():
    torch.manual_seed(0)
    config = LLaDAConfig(64, 1, 4, 4, 128, packed.LEAST // 64, 5, 0, 64)
    network = LLaDA(config).eval().requires_grad_(False)
    tokens, offsets = torch.arange(20), torch.tensor([0, 20])
    before = network.head(network.trunk(tokens, offsets))
    pack(network)
    found = [name for name, m in network.named_modules() if isinstance(m, PackedLinear)]
    assert found == ["model.transformer.ff_out"]
    after = network.head(network.trunk(tokens, offsets))
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


def test_short_canvas_in_a_packed_network_has_the_same_bits_alone_and_in_company():
    torch.manual_seed(0)
    network = LLaDA(LLaDAConfig(1536, 2, 12, 12, 1536, 1536, 5, 0, 64)).eval().requires_grad_(False)
    tokens, offsets = torch.arange(50), torch.tensor([0, 1, 5, 12, 50])
    plain = network.head(network.trunk(tokens, offsets))
    pack(network)
    assert network.least_rows == 1
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            whole = network.head(network.trunk(tokens, offsets))
            torch.testing.assert_close(whole, plain, rtol=0, atol=2e-5)
            for start, end in pairwise(offsets.tolist()):
                alone = network.trunk(tokens[start:end], torch.tensor([0, end - start]))
                assert torch.equal(network.head(alone), whole[start:end]), threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name, threads", [("stories", 6), ("digits", 3)])
def test_a_canvas_has_the_same_bits_alone_whatever_the_number_of_threads(name, threads):
    network = load_checkpoint(BUNDLED / name).model
    lengths = torch.tensor([103, 181 if name == "stories" else 82, 39, 1, 48, 119, 140])
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    tokens = torch.arange(int(offsets[-1])) * 7 % 9
    labels = torch.arange(len(lengths)) if network.classes else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            whole = network.trunk(tokens, offsets, labels=labels)
            for i, (start, end) in enumerate(pairwise(offsets.tolist())):
                own = None if labels is None else labels[i : i + 1]
                alone = network.trunk(tokens[start:end], torch.tensor([0, end - start]), labels=own)
                assert torch.equal(alone, whole[start:end]), end - start
    finally:
        torch.set_num_threads(before)


def test_network_with_a_matrix_that_is_not_packed_keeps_its_least_rows():
    tied = LLaDAConfig(1536, 1, 12, 12, 1536, 1536, 5, 0, 64, weight_tying=True)
    small = LLaDAConfig(64, 1, 4, 4, 128, packed.LEAST // 64, 5, 0, 64)
    for config in (tied, small):
        network = LLaDA(config).requires_grad_(False)
        pack(network)
        assert network.least_rows == 16


def test_what_a_dit_computes_in_float64_is_not_packed():
    torch.manual_seed(0)
    network = DiT(DiTConfig(40, 8, 256, 256, 1, 4, 39, num_classes=3)).requires_grad_(False)
    other = copy.deepcopy(network)
    for name, _ in list(network.named_modules()):  # as while a file is read
        pack_layer(network, name)
    found = [name for name, m in network.named_modules() if isinstance(m, PackedLinear)]
    assert found and not any("adaLN" in name or "sigma_map" in name for name in found)
    for each in (network, other):
        each.fold()
    assert network.folded is not None and other.folded is not None
    assert torch.equal(network.folded, other.folded)
    tokens, offsets, labels = torch.arange(8), torch.tensor([0, 8]), torch.tensor([1])
    logits = [net.head(net.trunk(tokens, offsets, labels=labels)) for net in (network, other)]
    torch.testing.assert_close(*logits, rtol=0, atol=2e-5)


def test_one_matrix_at_a_time_is_there_twice():
    network = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(6)))
    originals = [weakref.ref(layer.weight) for layer in network]
    pack(network)
    assert all(original() is None for original in originals)
    assert all(isinstance(layer, PackedLinear) for layer in network)


def test_other_types_stay_as_they_are():
    layer = nn.Sequential(nn.Linear(2048, 2048)).to(torch.float64)
    pack(layer)
    assert type(layer[0]) is nn.Linear


@pytest.mark.skipif(not cpu.has_fast_bfloat16(), reason="no bfloat16 arithmetic")
@pytest.mark.parametrize("rows", [1, 3, 64, 300])
def test_a_packed_layer_in_bfloat16_gives_the_results_of_the_layer(rows):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(512, 256), nn.Linear(256, 63)).to(torch.bfloat16)
    x = torch.randn(rows, 512, dtype=torch.bfloat16)
    expected = layer.requires_grad_(False)(x)
    pack(layer)
    assert [type(each) for each in layer] == [PackedLinear, nn.Linear]
    torch.testing.assert_close(layer(x), expected, rtol=2**-7, atol=2**-8)


@pytest.mark.skipif(not cpu.has_fast_bfloat16(), reason="no bfloat16 arithmetic")
def test_silu_and_the_factor_within_packed_products_are_rounded_less():
    torch.manual_seed(0)
    y = torch.randn(50, 512).bfloat16()
    layers = [nn.Linear(512, 768, bias=False).bfloat16() for _ in range(2)]
    both = nn.Sequential(*layers)
    gate, up = (F.linear(y.double(), layer.weight.double()) for layer in layers)
    exact = F.silu(gate) * up
    with torch.inference_mode():
        plain = packed.gated(both[0], both[1], y)
        pack(both)
        found = packed.gated(both[0], both[1], y)
    error, before = ((x.double() - exact).abs().mean() for x in (found, plain))
    assert error < before < 2e-3
