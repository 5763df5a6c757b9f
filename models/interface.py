"""The interface of a model to the other packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from models.attention import Packing
from models.cache import CacheShape, Segments
from models.images.layout import ImageShape


class Denoiser(Protocol):
    """A network that guesses the clean token at every position. It knows nothing of sampling."""

    classes: int
    """Labels that ``trunk`` takes, 0 to classes - 1, and the null label ``classes``; 0: none."""

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Packed tokens [T], sequence b at offsets[b]:offsets[b + 1] -> hidden states [R, D] of the
        packed positions ``rows``, of all if None.

        Args:
            tokens: ids.
            offsets: [B + 1]; on the host, so that no layout waits for the device, or on the
                device.
            rows: [R].
            labels: [B], one a sequence; None is the null label for all. Networks without classes
                take none.
            segments: the part of each canvas that ``tokens`` holds; None where they are whole and
                nothing is kept.

        Raises:
            ValueError: labels for a network without classes.
        """
        ...

    def reserve(self, slots: int) -> None:
        """Make room for keys and values of ``slots`` positions, before the first pass with
        ``segments``. Only for networks whose ``ModelInfo.cache`` has sizes.
        """
        ...

    def copy_slots(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy keys and values between slots, both [N] on the host, after ``reserve``."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, V]. Any selection of rows, in any order."""
        ...


class FixedDenoiser(Denoiser, Protocol):
    """A network that can run in shapes that are fixed before, and then asks the device nothing."""

    def fits(self, positions: int, cached: bool) -> bool:
        """Whether ``trunk_of`` takes this many positions; ``cached``: with slots."""
        ...

    def trunk_of(
        self, tokens: Tensor, packing: Packing, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """As ``trunk``.

        Args:
            tokens: ids [T]; any where ``packing`` has nobody.
            packing: where the sequences lie; also a plain tuple of the same.
            rows: packed positions, [R]; neither T nor R is less than ``least_rows``.
            labels: [B]; for networks that take them.
        """
        ...


class SelfConditioned(Denoiser, Protocol):
    """A network that reads, at each position that it denoises, the token that the step before
    expected there, as a mean of embeddings (arXiv:2208.04202).
    """

    def expected(self, p: Tensor) -> Tensor:
        """Weights [R, V] of ids -> weighted sums of their embeddings, [R, D]."""
        ...

    def remember(self, slots: Tensor, phases: Tensor, expected: Tensor) -> None:
        """Keep mean embeddings for the next pass, after ``reserve``.

        Args:
            slots: of the positions, [R].
            phases: of each, the value of ``Segments.phases`` in the pass that shall read it, [R].
                What passes of the phase before read stays as it is.
            expected: [R, D].
        """
        ...


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded checkpoint.

    Attributes:
        name: what clients call it.
        family: its name in ``models.registry``.
        parameters: count.
        vocab_size: N, the mask included.
        mask_id: id of the mask token; None for a model of uniform noise alone (UDLM).
        eos_id: id that ends a text; None for images.
        more_ends: further ids that do.
        max_length: positions a canvas may have, prompt included.
        dtype: of the weights in memory.
        classes: labels that it takes; 0 for text.
        class_names: of the labels in order, where ``config.json`` has any.
        image: what its tokens make, if that is an image.
        block_length: positions of a block of block-causal attention, as the network was trained;
            None where attention is bidirectional.
        canvas_length: positions that are denoised at a time, after a prompt that is encoded once;
            None for networks that encode nothing.
        shifted: whether a position's logits come from the position before it.
        cache: sizes of the keys and values that the network can keep; None where it cannot.
    """

    name: str
    family: str
    parameters: int
    vocab_size: int
    mask_id: int | None
    eos_id: int | None
    max_length: int
    dtype: str
    more_ends: tuple[int, ...] = ()
    classes: int = 0
    class_names: tuple[str, ...] = ()
    image: ImageShape | None = None
    block_length: int | None = None
    canvas_length: int | None = None
    shifted: bool = False
    cache: CacheShape | None = None
