"""A pass in fixed shapes gives what the pass that is laid out for its sequences gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import FixedPackedAttention, Packing
from models.base import Transformer
from models.checkpoints.load import find_checkpoint, load_network
from tests.support.published import write_folder

LENGTHS, SPARE = (5, 12, 0, 31, 7), 9  # one is empty, and positions behind the last are nobody's
FILES = {
    **{n: f"{n}_tiny" for n in ("dream", "fast_dllm_v2", "llada2", "sdar", "sdar_moe")},
    "llada_moe": "lladamoe_tiny_published",
}


def packing_of(lengths: tuple[int, ...], spare: int) -> Packing:
    sizes = torch.tensor(lengths)
    positions = torch.cat([torch.arange(n) for n in (*lengths, spare)])
    sequence = torch.repeat_interleave(
        torch.arange(len(lengths) + 1), torch.tensor([*lengths, spare])
    )
    return Packing(positions, sequence, F.pad(sizes.cumsum(0), (1, 0)).int(), 64)


@pytest.fixture(scope="module", params=[*FILES, "stories", "digits"])
def network(request, golden, tmp_path_factory) -> Transformer:
    name = request.param
    folder = find_checkpoint(name) if name not in FILES else tmp_path_factory.mktemp(name) / name
    if name in FILES:
        write_folder(folder, golden(f"families/{FILES[name]}"))
    found = load_network(folder)
    assert isinstance(found, Transformer)
    return found


@torch.inference_mode()
def test_hidden_states_are_those_of_the_pass_that_is_laid_out(network):
    g, count = torch.Generator().manual_seed(0), sum(LENGTHS)
    tokens = torch.randint(8, (count + SPARE,), generator=g)
    rows = torch.randperm(count, generator=g)[:20]
    labels = torch.tensor([1, 0, 2, 3, network.classes]) if network.classes else None
    packing = packing_of(LENGTHS, SPARE)
    found = network.trunk_of(tokens, packing, rows, labels)
    offsets = packing.offsets.long()
    if labels is None:
        expected = network.trunk(tokens[:count], offsets, rows)
    else:
        expected = network.trunk(tokens[:count], offsets, rows, labels)
    logits = [network.head(hidden).float() for hidden in (found, expected)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=5e-4)


def test_the_kernel_is_given_fixed_addresses_and_the_longest_length_there_may_be():
    packing = packing_of(LENGTHS, SPARE)
    q, k, v = torch.randn(3, sum(LENGTHS) + SPARE, 4, 8)
    seen = {}

    def kernel(*heads: Tensor, **layout: object) -> Tensor:
        seen.update(layout, heads=heads)
        return heads[0]

    FixedPackedAttention(packing, kernel)(q, k, v)
    assert seen["cu_seqlens_q"] is seen["cu_seqlens_k"] is packing.offsets
    assert seen["max_seqlen_q"] == seen["max_seqlen_k"] == packing.longest
    assert [len(heads) for heads in seen["heads"]] == [len(q)] * 3 and not seen["causal"]
