"""What the rest of the house may ask of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """A network that guesses the clean token at every position. It knows nothing of sampling."""

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor | None = None) -> Tensor:
        """Packed tokens [T], sequence b at offsets[b]:offsets[b + 1] -> hidden states [R, D] of the
        packed positions ``rows``, of all if None.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, V]. Any selection of rows, in any order."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded checkpoint.

    Attributes:
        name: what clients call it.
        family: ``llada`` or ``dit``.
        parameters: count.
        vocab_size: N, the mask included.
        mask_id: id of the mask token.
        eos_id: id that ends a text.
        max_length: positions a canvas may have, prompt included.
        dtype: of the weights in memory.
    """

    name: str
    family: str
    parameters: int
    vocab_size: int
    mask_id: int
    eos_id: int
    max_length: int
    dtype: str
