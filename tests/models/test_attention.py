"""Packed attention: what is handed to a variable-length kernel, and what comes back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import BucketedAttention, PackedAttention, attention_over


def plain_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
) -> Tensor:
    """The contract of ``flash_attn_varlen_func``, a sequence at a time."""
    assert cu_seqlens_q.dtype == torch.int32 and torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert not causal and max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    assert len(q) == len(k) == len(v) == int(cu_seqlens_q[-1])
    parts = []
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        a, b, c = (x[start:end].transpose(0, 1) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(a, b, c, enable_gqa=len(a) != len(b))
        parts.append(mixed.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[1], [5, 64, 65], [130, 3, 128, 1]])
def test_packed_and_bucketed_attention_agree(kv_heads, lengths):
    g = torch.Generator().manual_seed(1)
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    rows = max(int(offsets[-1]), 16)
    q, k, v = (torch.randn(rows, h, 8, generator=g) for h in (4, kv_heads, kv_heads))
    packed, bucketed = (
        PackedAttention(offsets, rows, plain_kernel),
        BucketedAttention(offsets, rows),
    )
    assert torch.equal(packed.positions, bucketed.positions)
    found, expected = (attend(q, k, v) for attend in (packed, bucketed))
    assert found.shape == expected.shape == q.shape
    here = slice(int(offsets[-1]))
    torch.testing.assert_close(found[here], expected[here], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed, block_length", [(True, None), (False, None), (False, 4)])
def test_a_layout_made_on_the_host_asks_the_device_nothing(packed, block_length):
    """Tensors of the device ``meta`` have no values to ask for."""
    offsets, device = torch.tensor([0, 5, 69, 134]), torch.device("meta")
    attention = (
        PackedAttention(offsets, 150, lambda q, *_, **__: q, device)
        if packed
        else BucketedAttention(offsets, 150, block_length, device)
    )
    assert attention.positions.device == device
    q, k, v = (torch.empty(150, h, 8, device=device) for h in (4, 2, 2))
    assert attention(q, k, v).shape == q.shape


@pytest.mark.parametrize("length", [64, 128, 192, 256])
def test_a_full_bucket_gets_the_bits_that_it_gets_in_company(length):
    g = torch.Generator().manual_seed(2)
    lengths = torch.tensor([length, 5, length - 1, 130])
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    q, k, v = (torch.randn(int(offsets[-1]), 4, 16, generator=g) for _ in range(3))
    together = BucketedAttention(offsets, len(q))(q, k, v)[:length]
    alone = BucketedAttention(torch.tensor([0, length]), length)
    assert torch.equal(alone(q[:length], k[:length], v[:length]), together)


def test_a_cpu_takes_sdpa():
    offsets = torch.tensor([0, 20])
    for dtype in (torch.float32, torch.bfloat16):
        assert isinstance(attention_over(offsets, 20, dtype, 64), BucketedAttention)


@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flash_attention_agrees(kv_heads):
    g = torch.Generator(device="cuda").manual_seed(1)
    offsets = torch.tensor([0, 130, 133, 261], device="cuda")
    q, k, v = (
        torch.randn(270, h, 64, generator=g, device="cuda", dtype=torch.bfloat16)
        for h in (4, kv_heads, kv_heads)
    )
    packed, bucketed = attention_over(offsets, 270, q.dtype, 64), BucketedAttention(offsets, 270)
    assert isinstance(packed, PackedAttention)
    torch.testing.assert_close(packed(q, k, v), bucketed(q, k, v), rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_odd_heads_and_full_precision_take_sdpa():
    offsets = torch.tensor([0, 20], device="cuda")
    for dtype, head in ((torch.float32, 64), (torch.bfloat16, 12), (torch.bfloat16, 512)):
        assert isinstance(attention_over(offsets, 20, dtype, head), BucketedAttention)
