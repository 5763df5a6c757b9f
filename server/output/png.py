"""Pixels to image files."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image
from torch import Tensor

Format = Literal["png", "webp"]


def picture(pixels: Tensor) -> Image.Image:
    """Pixels [H, W, C], uint8, of 1 or 3 channels -> a picture."""
    array = pixels.numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def encoded(pixels: Tensor, form: Format) -> bytes:
    """A file of pixels [H, W, C], uint8; nothing is lost."""
    out = io.BytesIO()
    picture(pixels).save(out, form.upper(), **({"lossless": True} if form == "webp" else {}))
    return out.getvalue()
