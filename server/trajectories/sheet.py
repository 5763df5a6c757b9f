"""Several images as one picture. Nothing here needs torch."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

MASKED = (96, 132, 200)  # what is not drawn yet
GAP = 1  # between pictures, before they are made larger
PAPER = "#ffffff"


def sheet_of(
    pixels: np.ndarray, missing: np.ndarray, columns: int, scale: int, paper: str = PAPER
) -> Image.Image:
    """Images row by row; what is missing is blue.

    Args:
        pixels: of the images [B, H, W, C], uint8, of 1 or 3 channels.
        missing: [B, h, w], where a mask stands; H and W are multiples of h and w.
        columns: images in a row.
        scale: how many times larger each pixel is shown.
        paper: colour between the images.
    """
    count, height, width, channels = pixels.shape
    if channels == 1:
        pixels = pixels.repeat(3, -1)
    for axis, size in ((1, height), (2, width)):
        missing = missing.repeat(size // missing.shape[axis], axis)
    pixels = np.where(missing[..., None], np.array(MASKED, np.uint8), pixels)
    rows = -(-count // columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
    sheet = np.full(shape, ImageColor.getrgb(paper), np.uint8)
    for i, image in enumerate(pixels):
        top, left = (
            GAP + place * (size + GAP)
            for place, size in zip(divmod(i, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    whole = Image.fromarray(sheet)
    return whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)
