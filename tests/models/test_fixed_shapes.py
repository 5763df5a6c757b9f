"""A pass in fixed shapes gives what the pass that is laid out for its sequences gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import FixedPackedAttention, Packing, kernel_over_slots
from models.base import Transformer
from models.cache import CacheShape, FixedSlabAttention, Slab
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


def over_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    enable_gqa: bool,
    seqused_k: Tensor,
) -> Tensor:
    """The contract of ``varlen_attn`` with ``seqused_k``, a sequence at a time."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1
    assert max_q >= int(cu_seq_q.diff().max()) and max_k >= int(seqused_k.max())
    out = torch.full_like(q, torch.nan)  # rows behind the last sequence are not written
    for i, used in enumerate(seqused_k.tolist()):
        rows = slice(int(cu_seq_q[i]), int(cu_seq_q[i + 1]))
        keys = slice(int(cu_seq_k[i]), int(cu_seq_k[i]) + used)
        a, b, c = (x.transpose(0, 1)[None] for x in (q[rows], k[keys], v[keys]))
        out[rows] = F.scaled_dot_product_attention(a, b, c, enable_gqa=enable_gqa)[0].transpose(
            0, 1
        )
    return out


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_attention_over_slots_by_a_kernel_and_by_a_mask_agree(kv_heads):
    """Sequences of queries anywhere on two canvases; one is empty, and some see fewer keys."""
    g = torch.Generator().manual_seed(0)
    lengths, starts, used = (4, 8, 0, 6), (40, 0, 0, 40), (12, 30, 0, 24)
    packing = packing_of(lengths, SPARE)._replace(
        slots=torch.tensor([*range(48, 52), *range(10, 18), *range(52, 58), *[-1] * SPARE]),
        starts=torch.tensor([*starts, 0]).int(),
        used=torch.tensor(used).int(),
        most_used=32,
    )
    results = []
    q, k, v = (torch.randn(len(packing.positions), h, 8, generator=g) for h in (4, *[kv_heads] * 2))
    for kernel in (over_slots, None):
        slab = Slab(CacheShape(1, kv_heads, 8), 81, torch.float32, torch.device("cpu"))
        slab.keys.normal_(generator=torch.Generator().manual_seed(1))
        slab.values.normal_(generator=torch.Generator().manual_seed(2))
        before = slab.keys.clone()
        results.append(FixedSlabAttention(slab, packing, kernel)(q, k, v)[: sum(lengths)])
        written = (slab.keys != before).flatten(2).any(-1)[0].nonzero()[:, 0].tolist()
        assert written == [*range(10, 18), *range(48, 58), 80]  # the last is nobody's
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_this_pytorch_attends_over_parts_of_keys():
    assert kernel_over_slots() is not None
