"""Matrices in fp8 (e4m3) with scales, multiplied out.

A scale belongs to a block of a matrix: the whole matrix, one row, or a rectangle such as
[128, 128]. An entry stands for its number times the scale of its block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPE = "F8_E4M3"
"""The name of ``torch.float8_e4m3fn`` in safetensors."""
Block = tuple[int, int]
"""Rows and columns that share a scale."""


def grid(shape: Sequence[int], block: Block) -> tuple[int, ...]:
    """Shape of the scales of matrices [..., N, K]: [..., ceil(N / rows), ceil(K / columns)]."""
    *stack, rows, columns = shape
    return (*stack, math.ceil(rows / block[0]), math.ceil(columns / block[1]))


def dequantised(
    entries: Tensor, scales: Tensor, block: Block, first: tuple[int, int] = (0, 0)
) -> Tensor:
    """Entries times their scales.

    Args:
        entries: [..., N, K] in e4m3; matrices, or parts of them.
        scales: of the blocks of the whole matrices, [..., R, C] as ``grid`` has them, in fp32.
        block: rows and columns that share a scale.
        first: row and column of the whole matrices where ``entries`` begin.

    Returns:
        [..., N, K] in fp32. Products of numbers in e4m3 and scales in bfloat16 are exact.
    """
    wide = entries.float()
    size = wide.shape[-2:]
    steps = zip(size, first, block, strict=True)
    rows, columns = (
        (torch.arange(count, device=wide.device) + start) // step for count, start, step in steps
    )
    if scales.shape[-1] > 1:
        scales = scales.index_select(-1, columns)
    stacked = scales.expand(*wide.shape[:-2], *scales.shape[-2:]).reshape(-1, *scales.shape[-2:])
    for matrix, own in zip(wide.view(-1, *size), stacked, strict=True):
        matrix.mul_(own if len(own) == 1 else own.index_select(0, rows))
    return wide
