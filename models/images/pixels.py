"""Ids of a canvas -> pixels of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from models.images.layout import ImageShape
from models.images.vq_decoder import VQDecoder

GREY = 128
"""Where no image token stands: the mask, say."""


def pixels(ids: Tensor, shape: ImageShape, decoder: VQDecoder | None) -> Tensor:
    """Canvases [B, L] -> images [B, H, W, C], uint8, on the CPU.

    Args:
        ids: tokens; those that stand for nothing (masks) are middle grey, but with ``vq`` the last
            code.
        shape: how they make an image.
        decoder: needed for ``vq``.

    Raises:
        ValueError: canvases of another length than an image's.
    """
    if ids.dim() != 2 or ids.shape[1] != shape.length:
        raise ValueError(f"ids are {list(ids.shape)}, an image has {shape.length}")
    if shape.tokens == "vq":
        assert decoder is not None
        return decoder.decode(ids.unflatten(1, (shape.height, shape.width))).cpu()
    values = ids
    if shape.tokens == "grey levels":
        values = (ids.double() * 255 / (shape.levels - 1)).round()
    values = torch.where(ids < shape.levels, values, GREY).to(torch.uint8).cpu()
    return values.view(-1, shape.channels, shape.height, shape.width).movedim(1, -1).contiguous()
