"""Attention over padded sequences: products against SDPA, in float32 and in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.padded_attention import LEAST_QUERIES, MOST_SCORES, attend, by_products


def drawn(count: int, heads: int, shared: int, length: int, keys: int) -> list[Tensor]:
    """Queries [B, H, N, d], keys and values."""
    g = torch.Generator().manual_seed(1)
    sizes = ((heads, length), (shared, keys), (shared, keys))
    return [torch.randn(count, h, n, 16, generator=g) for h, n in sizes]


def some_keys(count: int, length: int, keys: int) -> Tensor:
    """A mask that leaves each query one key at least."""
    g = torch.Generator().manual_seed(2)
    mask = torch.rand(count, 1, length, keys, generator=g) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    return mask


@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("heads, shared", [(4, 4), (4, 2), (3, 1)])
def test_products_are_those_of_sdpa(heads, shared, differ):
    q, k, v = drawn(3, heads, shared, 5, 70)
    mask = some_keys(3, 5 if differ else 1, 70)
    with torch.inference_mode():
        found = by_products(q, k, v, mask, 0.3)
        expected = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=0.3, enable_gqa=heads != shared
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_products_come_in_parts_whose_scores_fit():
    count, heads, length = 9, 4, 512
    assert count * heads * length * length > MOST_SCORES
    q, k, v = drawn(count, heads, 2, length, length)
    mask = some_keys(count, 1, length)
    with torch.inference_mode():
        found = by_products(q, k, v, mask, 0.25)
        last = by_products(q[-1:], k[-1:], v[-1:], mask[-1:], 0.25)
    torch.testing.assert_close(found[-1:], last)


@pytest.mark.parametrize("length", [3, LEAST_QUERIES])
def test_attention_in_bfloat16_is_as_exact_as_its_type(length):
    q, k, v = (x.bfloat16() for x in drawn(2, 4, 2, length, 192))
    mask = some_keys(2, 1, 192)
    a, b, c = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    with torch.inference_mode():
        found = attend(a, b, c, mask).unflatten(0, (2, length)).transpose(1, 2)
    expected = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=True
    )
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-7)
