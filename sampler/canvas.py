"""The packed canvases of all running requests, and what one step changes on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.params import NOISE_REMOVALS, SamplingParams

UNMASK, REFINE, REMASK = 0, 1, 2
OPS = ("unmask", "refine", "remask")  # names of the change kinds, by code


@dataclass(frozen=True)
class CanvasBatch:
    """B canvases lie end to end in T packed tokens; per-request settings lie in arrays beside them.

    Attributes:
        tokens: ids.
        editable: where the sampler may write; prompts are clamped.
        lengths: positions of each canvas.
        step, steps, calls: step that comes next, T of the request, calls until it is done.
        seed, mixing_ratio, temperature, top_p: as in ``SamplingParams``; reals in float64.
        noise_removal: index into ``NOISE_REMOVALS``.
    """

    tokens: Int[Tensor, " T"]
    editable: Bool[Tensor, " T"]
    lengths: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    steps: Int[Tensor, " B"]
    calls: Int[Tensor, " B"]
    seed: Int[Tensor, " B"]
    mixing_ratio: Float[Tensor, " B"]
    temperature: Float[Tensor, " B"]
    top_p: Float[Tensor, " B"]
    noise_removal: Int[Tensor, " B"]

    @classmethod
    def of(
        cls,
        canvases: Sequence[tuple[Sequence[int], Sequence[bool], SamplingParams]],
        device: torch.device | str = "cpu",
    ) -> CanvasBatch:
        """Pack canvases given as (tokens, editable, params), at step 0."""
        params = [p for _, _, p in canvases]

        def whole(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        def real(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        return cls(
            tokens=whole([t for tokens, _, _ in canvases for t in tokens]),
            editable=torch.tensor(
                [e for _, editable, _ in canvases for e in editable],
                dtype=torch.bool,
                device=device,
            ),
            lengths=whole([len(tokens) for tokens, _, _ in canvases]),
            step=whole([0] * len(params)),
            steps=whole([p.steps for p in params]),
            calls=whole([p.calls for p in params]),
            seed=whole([p.seed for p in params]),
            mixing_ratio=real([p.mixing_ratio for p in params]),
            temperature=real([p.temperature for p in params]),
            top_p=real([p.top_p for p in params]),
            noise_removal=whole([NOISE_REMOVALS.index(p.noise_removal) for p in params]),
        )

    @property
    def size(self) -> int:
        """B, the number of canvases."""
        return self.lengths.numel()

    def owner(self) -> tuple[Tensor, Tensor]:
        """(canvas, position within it) of each packed token, both [T]."""
        total = self.tokens.numel()
        canvas = torch.repeat_interleave(self.lengths, output_size=total)
        starts = self.lengths.cumsum(0) - self.lengths
        return canvas, torch.arange(total, device=canvas.device) - starts[canvas]

    def joined(self, other: CanvasBatch) -> CanvasBatch:
        """This batch with another behind it."""
        return CanvasBatch(
            *(
                torch.cat((mine, theirs))
                for mine, theirs in zip(_arrays(self), _arrays(other), strict=True)
            )
        )

    def kept(self, keep: Tensor) -> CanvasBatch:
        """The canvases where keep [B] is true, in order."""
        canvas, _ = self.owner()
        packed = keep[canvas]
        tokens, editable, *others = _arrays(self)
        return CanvasBatch(tokens[packed], editable[packed], *(a[keep] for a in others))

    def with_tokens(self, tokens: Tensor) -> CanvasBatch:
        """The same batch with other tokens [T]."""
        return replace(self, tokens=tokens)

    def advanced(self, tokens: Tensor) -> CanvasBatch:
        """The batch one step later, with new tokens [T]."""
        return replace(self, tokens=tokens, step=self.step + 1)


def _arrays(batch: CanvasBatch) -> tuple[Tensor, ...]:
    """All arrays in order: the packed ones (tokens, editable), then those by canvas."""
    return tuple(getattr(batch, name) for name in CanvasBatch.__dataclass_fields__)


@dataclass(frozen=True)
class Transition:
    """What one step changed: one entry per changed position, in packed order.

    Attributes:
        rows: packed positions.
        old, new: ids before and after.
        op: index into ``OPS``.
        confidence: probability the model gave to the new token; 0 where none was asked for.
    """

    rows: Int[Tensor, " C"]
    old: Int[Tensor, " C"]
    new: Int[Tensor, " C"]
    op: Int[Tensor, " C"]
    confidence: Float[Tensor, " C"]

    @classmethod
    def between(
        cls, before: Tensor, after: Tensor, confidence: Tensor, mask_id: int | None
    ) -> Transition:
        """The difference of two token arrays [T]; confidence [T]."""
        rows = torch.nonzero(before != after)[:, 0]
        old, new = before[rows], after[rows]
        op = torch.full_like(old, REFINE)
        if mask_id is not None:
            op[old == mask_id] = UNMASK
            op[new == mask_id] = REMASK
        return cls(rows, old, new, op, confidence[rows])
