"""Shared parts of the families: packing, rotary positions, and how weights become a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import (
    Attention,
    Packing,
    attention_over,
    fixed_attention,
    kernel_over_slots,
    takes_packed,
)
from models.cache import CacheShape, FixedSlabAttention, Segments, Sight, Slab, SlabAttention
from models.errors import UnsupportedConfig

MIN_ROWS = 16
"""Rows that a matrix product has at least: CPU libraries round products of fewer rows in another
way, so a canvas would get other bits alone than in company. ``sampler.logits.head`` has the same
number for the rows that it gives to ``head``: the sampler imports nothing of ``models``. Networks
whose products do not need it have their own ``least_rows``.
"""
MOST_PAIRS = 1 << 22
"""Queries times keys of a pass in fixed shapes that masks them one by one."""
MOST_POSITIONS = 1 << 18
"""Of a canvas; the longest contexts that language models are trained with."""
MOST_ROTARY = 1 << 28
"""Bytes of a table of rotary angles."""


def check_positions(field: str, positions: int, head_width: int = 0) -> None:
    """Refuse canvases whose tables would fill the memory before a weight is read.

    Args:
        field: of ``config.json``, for the message.
        positions: of a canvas.
        head_width: of the heads that positions are rotated in.

    Raises:
        UnsupportedConfig: naming the field.
    """
    if positions > MOST_POSITIONS:
        raise UnsupportedConfig(f"{field} is {positions}, at most {MOST_POSITIONS}")
    if (size := 4 * positions * head_width) > MOST_ROTARY:
        raise UnsupportedConfig(
            f"{field} is {positions}: with heads {head_width} wide the rotary angles take "
            f"{size} bytes, at most {MOST_ROTARY}"
        )


class Rope(NamedTuple):
    """Rotary positions: how many, the width of a head, and the base of the angles."""

    positions: int
    width: int
    base: float

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians a position, [width / 2] in fp32."""
        even = torch.arange(0, self.width, 2, dtype=torch.float32, device=device)
        return self.base ** -(even / self.width)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) of the first r dimensions, half-split pairs.

    Args:
        x: [T, H, d].
        cos, sin: [T, 1, r/2] in fp32.
    """
    half, kind = cos.shape[-1], x.dtype
    x = x.float()  # times fp32 it is that anyway; at once is faster
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    if torch.is_grad_enabled():
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat((*turned, rest), dim=-1).to(kind)
    out = torch.empty_like(x)
    torch.mul(first, cos, out=out[..., :half]).sub_(second * sin)
    torch.mul(second, cos, out=out[..., half : 2 * half]).add_(first * sin)
    if rest.shape[-1]:
        out[..., 2 * half :] = rest
    return out.to(kind)


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv:1910.07467), statistics in fp32, cast back before the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> same."""
        if x.is_cuda:  # the same in one kernel
            return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if wide is x or torch.is_grad_enabled():
            return (wide * scale).to(x.dtype) * self.weight
        return wide.mul_(scale).to(x.dtype).mul_(self.weight)


def pad_rows(x: Tensor, least: int = MIN_ROWS) -> Tensor:
    """[n, ...] -> [max(n, least), ...], zeros after the last row."""
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(0, least - len(x))))


class Piece(NamedTuple):
    """The part of a parameter that is stored as a tensor of its own."""

    parameter: str
    at: tuple[int | slice, ...]


class CheckpointModule(nn.Module):
    """A module whose weights are loaded from a file.

    Attributes:
        wide: parts of the names of weights that stay in fp32 whatever the model's type.
    """

    wide: ClassVar[tuple[str, ...]] = ()

    def derived(self) -> dict[str, Tensor]:
        """Tensors that a file may hold though they follow from the config: compared, not used."""
        return {}

    def pieces(self) -> dict[str, Piece]:
        """Parameters that files store in pieces, by the names of the pieces."""
        return {}

    def passed_over(self, name: str) -> bool:
        """Whether a stored tensor is of a part that is not built, or another's under a further
        name: it is not read.
        """
        del name
        return False

    def stored(self) -> dict[str, Tensor]:
        """Tensors as files store them, by name: parameters and buffers, or their pieces."""
        state, pieces = self.state_dict(), self.pieces()
        whole = {piece.parameter for piece in pieces.values()}
        kept = {name: tensor for name, tensor in state.items() if name not in whole}
        return kept | {n: state[piece.parameter][piece.at] for n, piece in pieces.items()}

    def ready(self, device: torch.device) -> None:
        """Compute what is not stored, once the weights are in place on their device."""


class DenoiserModule(CheckpointModule, ABC):
    """Base of the architectures; each fulfils ``models.interface.Denoiser``.

    Attributes:
        classes: labels that it takes; 0 takes none.
        shifted: whether a position's logits come from the position before it.
        block_length: positions of a block of block-causal attention; None for bidirectional.
        widens: whether it can compute in float32 with weights in bfloat16 (``models.widening``).
        narrows: whether the products of its blocks are those of linear layers, which can be in
            float8 (``models.float8``).
        own_head: whether all of its products are those of linear layers: the head has a matrix of
            its own, there are no experts.
        least_rows: that its products have.
        canvas_length: positions that are denoised at a time after an encoded prompt; None for
            networks that encode nothing.
        packed_head: of networks with a ``wide_head``: its matrix in another layout
            (``models.packed``); None where it is not packed.
    """

    classes: int = 0
    shifted: bool = False
    block_length: int | None = None
    widens: bool = False
    narrows: bool = False
    own_head: bool = False
    least_rows: int = MIN_ROWS
    canvas_length: int | None = None
    packed_head: nn.Module | None

    @property
    def wide_head(self) -> Tensor | None:
        """The matrix [V, D] of a head that is also the embedding, where a step multiplies so many
        rows with it that a packed copy is worth its memory; None for other networks.
        """
        return None

    @property
    def cache_shape(self) -> CacheShape | None:
        """Sizes of its keys and values; None for a network that cannot keep any."""
        return None

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Positions that a canvas may have."""

    def reserve(self, slots: int) -> None:
        """See ``Denoiser``."""
        raise ValueError("this network keeps no keys and values")

    def copy_slots(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See ``Denoiser``."""
        raise ValueError("this network keeps no keys and values")

    @abstractmethod
    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """See ``Denoiser``."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """See ``Denoiser``."""


class Transformer(DenoiserModule):
    """Base of the networks that attend over packed sequences.

    Attributes:
        rope: its rotary positions; as many as a canvas may have.
        head_dim: width of a head, of which ``rope`` may rotate a part.
        slab: keys and values that passes keep; None before ``reserve``.
    """

    cos: Tensor
    sin: Tensor
    slab: Slab | None = None

    def __init__(self, rope: Rope, head_dim: int | None = None) -> None:
        super().__init__()
        self.rope = rope
        self.head_dim = head_dim or rope.width
        if torch.get_default_device().type != "meta":  # there it waits for ``ready``
            self.make_rope(None)

    @property
    def max_length(self) -> int:
        """See ``DenoiserModule``."""
        return self.rope.positions

    def make_rope(self, device: torch.device | None) -> None:
        """Tabulate the rotary angles on a device: cos and sin [positions, 1, width / 2]."""
        position = torch.arange(self.rope.positions, dtype=torch.float32, device=device)
        angle = torch.outer(position, self.rope.frequencies(device))[:, None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def ready(self, device: torch.device) -> None:
        """See ``CheckpointModule``."""
        self.make_rope(device)

    def reserve(self, slots: int, ranks: int = 1) -> None:
        """Make room for keys and values of ``slots`` positions, and of one that is nobody's, to
        which passes in fixed shapes write what belongs to no canvas; of a network that is divided
        among ranks, for this one's heads. What there is stays if it is large enough, since recorded
        passes read it.
        """
        if self.slab is not None and self.slab.slots > slots:
            return None
        shape, like = self.cache_shape, next(self.parameters())
        if shape is None:
            return super().reserve(slots)
        own = shape._replace(heads=shape.heads // ranks)
        self.slab = Slab(own, slots + 1, like.dtype, self.cos.device)

    def copy_slots(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See ``Denoiser``."""
        if self.slab is None:
            return super().copy_slots(sources, targets)
        self.slab.copy(sources, targets)

    def predictors(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Packed positions whose hidden states predict the tokens of ``rows``.

        Args:
            rows: packed positions, [R].
            positions: of all packed tokens, each within its sequence.
        """
        del positions
        return rows

    @abstractmethod
    def hidden(
        self,
        tokens: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Tokens [T] laid out as ``attention`` says -> what ``head`` reads, of ``rows`` [R] or of
        all; [R or T, width]. Behind its attention the last block runs on those rows alone.
        ``labels`` [T] is given where the network takes labels.
        """

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """See ``Denoiser``.

        Below 16 rows the matrix products of CPU libraries take other paths with other rounding, so
        very short batches are padded: a canvas gets the same bits alone and in company.
        """
        kind, least = next(self.parameters()).dtype, self.least_rows
        padded = max(tokens.numel(), least)
        if segments is None:
            attention = attention_over(
                offsets, padded, kind, self.head_dim, self.block_length, tokens.device
            )
        else:
            if self.slab is None:
                raise ValueError("this network keeps no keys and values")
            segments = Segments(*segments)
            length = self.block_length
            sight = None if length is None else Sight.blocks(segments.positions, length)
            attention = SlabAttention(self.slab, segments, padded, sight)
        if rows is None:
            rows = torch.arange(tokens.numel(), device=tokens.device)
        of_tokens = None
        if self.classes:
            if labels is None:
                labels = torch.full_like(offsets[1:], self.classes, device=tokens.device)
            lengths = offsets.diff().to(tokens.device, non_blocking=True)
            of_each = labels.repeat_interleave(lengths, output_size=tokens.numel())
            of_tokens = pad_rows(of_each, least)
        elif labels is not None:
            raise ValueError("this network takes no labels")
        wanted = pad_rows(self.predictors(rows, attention.positions), least)
        hidden = self.hidden(pad_rows(tokens, least), attention, wanted, of_tokens)
        return hidden[: rows.numel()]

    def fits(self, positions: int, cached: bool) -> bool:
        """See ``FixedDenoiser``."""
        kind, device = next(self.parameters()).dtype, self.cos.device
        if cached and self.slab is None:
            return False
        if takes_packed(device, kind, self.head_dim, None if cached else self.block_length):
            return not cached or kernel_over_slots() is not None
        keys = self.slab.slots if cached and self.slab is not None else positions
        return positions * keys <= MOST_PAIRS

    def trunk_of(
        self, tokens: Tensor, packing: Packing, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """See ``FixedDenoiser``."""
        packing = Packing(*packing)
        kind = next(self.parameters()).dtype
        if packing.slots is None:
            attention = fixed_attention(packing, kind, self.head_dim, self.block_length)
        else:
            if self.slab is None:
                raise ValueError("this network keeps no keys and values")
            packed = takes_packed(tokens.device, kind, self.head_dim, None)
            kernel = kernel_over_slots() if packed else None
            attention = FixedSlabAttention(self.slab, packing, kernel)
        of_tokens = None
        if labels is not None:
            of_tokens = F.pad(labels, (0, 1), value=self.classes)[packing.sequence]
        return self.hidden(tokens, attention, self.predictors(rows, packing.positions), of_tokens)
