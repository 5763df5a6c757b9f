"""Weights in bfloat16 on a CPU without instructions for it: products are computed in float32.

A piece of a matrix is widened into a buffer that the cache of the processor holds, multiplied, and
the next one takes its place. Weights take half of the memory of float32, and a step with few rows,
which waits for weights, reads half as much. Published weights are in bfloat16, so that nothing is
rounded that float32 would keep. Batches are not filled up to ``MIN_ROWS``, which would cost a third
of the time of a small one: unlike in float32, a canvas may be rounded otherwise alone than in
company. Only for inference.
"""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import DenoiserModule

PIECE = 1 << 20
"""Entries of a matrix that are widened at a time: 4 MiB."""
_buffers = threading.local()


class WideningLinear(nn.Module):
    """x W^T + b in float32 for a W in bfloat16; it cannot be trained or saved."""

    weight: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Take over the weights of a layer."""
        super().__init__()
        self.register_buffer("weight", layer.weight.detach(), persistent=False)
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(x, self.weight, self.bias)


class WideningEmbedding(nn.Module):
    """Rows of a table in bfloat16, in float32."""

    weight: Tensor

    def __init__(self, table: nn.Embedding) -> None:
        """Take over the rows of a table."""
        super().__init__()
        self.register_buffer("weight", table.weight.detach(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [...] -> rows [..., width]."""
        return F.embedding(ids, self.weight).float()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """``F.linear``, for x in float32 also with weights in a narrower type.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N], of the type of ``x``.
        scale: [N], of the type of ``x``: rows of a narrower weight are multiplied by it.
    """
    if weight.dtype == x.dtype:
        return F.linear(x, weight, bias)
    columns = x.reshape(-1, x.shape[-1]).T
    out = x.new_empty(len(weight), columns.shape[1])
    count = max(1, PIECE // weight.shape[1])
    if not hasattr(_buffers, "piece") or _buffers.piece.numel() < count * weight.shape[1]:
        _buffers.piece = x.new_empty(count * weight.shape[1])
    for start in range(0, len(weight), count):
        piece = weight[start : start + count]
        wide = _buffers.piece[: piece.numel()].view(piece.shape)
        torch.mm(wide.copy_(piece), columns, out=out[start : start + count])
    y = out.T.contiguous()  # few columns: with them on the right the product is twice as fast
    y = y if scale is None else y.mul_(scale)
    return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], len(weight))


def compute_wide(network: DenoiserModule) -> None:
    """Have a network that ``widens`` and has its weights in bfloat16 compute in float32."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear:
                setattr(parent, name, WideningLinear(module))
            elif type(module) is nn.Embedding:
                setattr(parent, name, WideningEmbedding(module))
    network.least_rows = 1
    for parameter in network.parameters():  # those of norms
        parameter.data = parameter.data.float()
