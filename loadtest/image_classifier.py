"""A classifier of images, trained on labelled examples, that says what an answer shows."""

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
    """A support vector machine on pixels.

    The file is numpy's npz with ``images`` [n, height, width(, channels)], 0 to 255, ``labels`` [n]
    and ``names``, what prompts call the labels. Nothing in it is run.

    Raises:
        Refusal: the file is no such thing.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """Read the examples and train on them; some seconds for some thousands."""
        try:
            with np.load(path, allow_pickle=False) as found:
                images, labels = found["images"], found["labels"]
                self._names = [str(name) for name in found["names"]]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refusal(f"{path} holds no labelled images: {error}") from None
        self._svm = SVC(C=5.0, gamma="scale").fit(images.reshape(len(images), -1) / 255.0, labels)

    def __call__(self, prompt: str, image: str) -> dict[str, Any]:
        """Whether a PNG in base64 shows what the prompt names."""
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
        (seen,) = self._svm.predict(pixels.reshape(1, -1) / 255.0)
        return {"right": self._names[int(seen)] == prompt, "seen": self._names[int(seen)]}
