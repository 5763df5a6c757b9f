"""Linear layers in float8 (e4m3), for CUDA devices that multiply it; an approximation.

Each row of a matrix has a scale, by which its greatest entry becomes the greatest number of the
format; so has each row of input, found anew in each pass. Products are rounded to bfloat16, on
Hopper from sums of about 14 bits. That is half of the memory of bfloat16, and up to twice its rate
of products. Only matrices of a network's blocks are replaced: embedding, head, norms and modulation
are what they were. On a CPU products are the same within rounding, without a gain of time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KIND = torch.float8_e4m3fn
GREATEST = float(torch.finfo(KIND).max)
LEAST = 1e-30
"""Greatest entry of a row that is taken for 0."""
MULTIPLE = 16
"""Sizes of a matrix that the kernels of CUDA devices take."""
CAPABILITY = (8, 9)
"""Compute capability of a CUDA device from which on it multiplies the format: Ada, Hopper."""


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, K] -> (e4m3 [N, K], scales [N, 1] in float32): rows are about the product."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp_(min=LEAST) / GREATEST
    return (rows / scale).to(KIND), scale


def multiplied(x: Tensor, entries: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply rows by a rounded matrix: x W^T + b, about, in bfloat16.

    Args:
        x: [..., K] in bfloat16.
        entries, scale: of W, [N, K] in e4m3 and [1, N] in float32.
        bias: [N] in bfloat16.

    Returns:
        [..., N].
    """
    rows, row_scale = scaled(x.reshape(-1, x.shape[-1]))
    if not len(rows):
        return x.new_empty(*x.shape[:-1], len(entries))
    y = torch.ops.aten._scaled_mm(
        rows,
        entries.t(),
        row_scale,
        scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,  # Hopper: at the full rate
    )
    y = y if bias is None else y.add_(bias)
    return y.view(*x.shape[:-1], len(entries))


class Float8Linear(nn.Module):
    """x W^T + b, about, for inputs in bfloat16; it cannot be trained or saved.

    Attributes:
        weight: empty; its type is that of inputs and results.
        entries, scale: of W, see ``scaled``.
    """

    weight: Tensor
    entries: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Round the weights of a layer, which is not used any more."""
        super().__init__()
        weight = layer.weight.detach()
        entries, scale = scaled(weight)
        self.register_buffer("weight", weight.new_empty(0, dtype=torch.bfloat16), persistent=False)
        self.register_buffer("entries", entries, persistent=False)
        self.register_buffer("scale", scale.view(1, -1), persistent=False)
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return multiplied(x, self.entries, self.scale, self.bias)


def narrow_layer(network: nn.Module, name: str) -> None:
    """Replace a module of a network by one in float8, if it is a linear layer of a block whose
    weights are all there.
    """
    layer = network.get_submodule(name)
    if type(layer) is not nn.Linear or layer.weight.is_meta or layer.weight.dtype == torch.float32:
        return
    if not any(part.isdecimal() for part in name.split(".")):  # of a list of blocks
        return
    if any(size % MULTIPLE for size in layer.weight.shape):
        return
    if layer.bias is not None and layer.bias.is_meta:
        return
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, Float8Linear(layer))
