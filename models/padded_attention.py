"""Attention over sequences that are padded to one length: SDPA, or in bfloat16 on a CPU with
instructions for it two batched products and a softmax.

There PyTorch's FlashAttention runs at a quarter of the rate of whole products, which are faster
from some queries on, while the scores fit into a cache. Scores and weights are rounded to bfloat16,
as in the plain attention of transformers. In float32 SDPA is near the rate of products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models import cpu

LEAST_QUERIES = 128
"""Of all sequences; for fewer it takes longer to lay out the keys than to multiply them."""
MOST_SCORES = 1 << 23
"""Entries of the scores that are held at once, 16 MiB."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Softmax of the scaled products of queries and keys, times the values, head by head.

    Args:
        q: [B * N, H, d], N queries of each of B sequences.
        k, v: [B * P, H_kv, d]; consecutive queries' heads share one of these.
        mask: the keys that are seen, true: [B, 1, 1, P], or [B, 1, N, P] where queries differ. Each
            sees one at least.
        scale: of the products; None for one over the root of d.

    Returns:
        [B * N, H, d].
    """
    count = len(mask)
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
    if _takes_products(q, k.shape[2]):
        mixed = by_products(q, k, v, mask, q.shape[-1] ** -0.5 if scale is None else scale)
    else:
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
        )
    return mixed.transpose(1, 2).flatten(0, 1)


def _takes_products(q: Tensor, keys: int) -> bool:
    narrow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and cpu.has_fast_bfloat16()
    count, heads, length, _ = q.shape
    suits = count * length >= LEAST_QUERIES and heads * length * keys <= MOST_SCORES
    return narrow and suits and not torch.is_grad_enabled()


def by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The same by two batched products: [B, H, N, d] and [B, H_kv, P, d] twice -> [B, H, N, d]."""
    (count, heads, length, _), (shared, keys) = q.shape, k.shape[1:3]
    grouped = q.reshape(count * shared, heads // shared * length, -1)
    k, v = (x.reshape(count * shared, keys, -1) for x in (k, v))
    unseen = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    some = max(1, MOST_SCORES // (heads * length * keys))
    mixed = []
    for at in range(0, count, some):
        part = slice(at * shared, (at + some) * shared)
        scores = torch.baddbmm(
            q.new_empty(()), grouped[part], k[part].transpose(1, 2), beta=0, alpha=scale
        )
        scores.view(-1, heads, length, keys).add_(unseen[at : at + some])
        mixed.append(torch.bmm(scores.softmax(-1), v[part]))
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(q.shape)
