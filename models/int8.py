"""Linear layers with weights in int8, for CPUs; an approximation.

Each row of a matrix has a scale, by which its greatest entry becomes 127. Few rows of input are
multiplied by PyTorch's own kernel, in bfloat16; its time grows with each row, so that from some on
pieces of the weights are widened to float32 as those in bfloat16 are. The memory and the time of
reading weights are a quarter of those in float32. Embeddings stay in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.widening import PIECE, linear

FEW = 8
"""Rows of input up to which PyTorch's kernel is the faster way: 3 against 8 ms for 4 rows and a
matrix of 25 M entries on two cores with AVX2, 15 against 11 ms for 16."""
MULTIPLE = 32
"""That kernel takes rows of weights whose length is a multiple of this."""
GREATEST = 127
LEAST = 1e-30
"""Greatest entry of a row that is taken for 0."""


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W [N, K] -> (int8 [N, K], scales [N] in bfloat16): W is about int8 times scale."""
    entries = torch.empty_like(weight, dtype=torch.int8)
    scale = weight.new_empty(len(weight), dtype=torch.bfloat16)
    count = max(1, PIECE // max(1, weight.shape[1]))  # a matrix of a head is large
    for start in range(0, len(weight), count):
        rows = slice(start, start + count)
        wide = weight[rows].to(torch.float32, copy=True)
        greatest = wide.abs().amax(1).clamp_(min=LEAST)
        scale[rows] = greatest / GREATEST  # rounded first: the integers make up for what it loses
        wide /= scale[rows].float()[:, None]
        entries[rows] = wide.round_().clamp_(-GREATEST, GREATEST)
    return entries, scale


class Int8Linear(nn.Module):
    """x W^T + b, about, for float32 inputs; it cannot be trained or saved."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Quantise the weights of a layer, which is not used any more."""
        super().__init__()
        weight, scale = quantised(layer.weight.detach())
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self._wide_scale = scale.float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        rows = x.reshape(-1, x.shape[-1])
        if not 0 < len(rows) <= FEW or rows.shape[1] % MULTIPLE:
            return linear(x, self.weight, self.bias, self._wide_scale)
        y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.weight, self.scale).float()
        y = y if self.bias is None else y.add_(self.bias)
        return y.view(*x.shape[:-1], len(self.weight))


def quantise_layer(network: nn.Module, name: str) -> None:
    """Replace a module of a network by one in int8, if it is a linear layer whose weights are all
    there.
    """
    layer = network.get_submodule(name)
    if type(layer) is not nn.Linear or layer.weight.is_meta:
        return
    if layer.bias is not None and layer.bias.is_meta:
        return
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, Int8Linear(layer))
