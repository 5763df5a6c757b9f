"""Pixels to image files."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.images.layout import ImageShape

Format = Literal["png", "webp"]
MASKED = (96, 132, 200)  # what is not drawn yet
GAP = 1  # between pictures, before they are made larger
PAPER = 255


def picture(pixels: Tensor) -> Image.Image:
    """Pixels [H, W, C], uint8, of 1 or 3 channels -> a picture."""
    array = pixels.numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def encoded(pixels: Tensor, form: Format) -> bytes:
    """A file of pixels [H, W, C], uint8; nothing is lost."""
    out = io.BytesIO()
    picture(pixels).save(out, form.upper(), **({"lossless": True} if form == "webp" else {}))
    return out.getvalue()


def sheet_of(
    ids: Tensor, drawn: Tensor, shape: ImageShape, columns: int, scale: int
) -> Image.Image:
    """Images as one picture, row by row; masks are blue.

    Args:
        ids: canvases [B, L].
        drawn: their pixels [B, H, W, C], uint8.
        shape: how the ones make the others.
        columns: images in a row.
        scale: how many times larger each pixel is shown.
    """
    height, width = shape.size
    pixels = drawn.numpy()
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, -1)
    missing = (ids >= shape.levels).numpy().reshape(len(ids), -1, shape.height, shape.width)
    missing = missing.any(1).repeat(shape.scale, 1).repeat(shape.scale, 2)
    pixels = np.where(missing[..., None], np.array(MASKED, np.uint8), pixels)
    rows = -(-len(ids) // columns)
    sheet = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8
    )
    for i, image in enumerate(pixels):
        top, left = (
            GAP + place * (size + GAP)
            for place, size in zip(divmod(i, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    whole = picture(torch.from_numpy(sheet))
    return whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)
