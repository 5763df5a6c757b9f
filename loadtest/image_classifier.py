"""Judges images with a classifier that is trained on labelled examples."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.svm import SVC

from loadtest.errors import Refusal


class Classifier:
    """Support vector machine on pixels.

    The file is numpy's npz with ``images`` [n, height, width(, channels)], 0 to 255, ``labels`` [n]
    and ``names``, the prompts of the labels. Pickled objects are refused.

    Raises:
        Refusal: the file does not hold these arrays.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """Read the examples and train on them: seconds for thousands of examples."""
        try:
            with np.load(path, allow_pickle=False) as found:
                images, labels = found["images"], found["labels"]
                self._names = [str(name) for name in found["names"]]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(f"{path} does not hold labelled images: {error}") from None
        self._svm = SVC(C=5.0, gamma="scale").fit(images.reshape(len(images), -1) / 255.0, labels)

    def __call__(self, prompt: str, image: str) -> dict[str, Any]:
        """Classify a PNG in base64: the class, and whether it is that of the prompt."""
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
        (seen,) = self._svm.predict(pixels.reshape(1, -1) / 255.0)
        return {"right": self._names[int(seen)] == prompt, "seen": self._names[int(seen)]}
