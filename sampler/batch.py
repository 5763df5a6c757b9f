"""The packed canvases of all running requests of one sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.packing import joined
from sampler.params import SamplingParams
from sampler.state import Columns, SamplerState

BY_POSITION = ("tokens", "editable")


State = TypeVar("State", bound=SamplerState)


@dataclass(frozen=True)
class CanvasBatch(Generic[State]):
    """B canvases lie end to end in T packed tokens; per-request settings lie in arrays beside them.

    Attributes:
        tokens: ids.
        editable: where the sampler may write; prompts are clamped.
        lengths: positions of each canvas.
        step, steps, calls: step that comes next, T of the request, calls until it is done.
        from_step, from_time: where the time grid of the steps ahead begins (``deadline``).
        seed, temperature, top_p, guidance_scale: as in ``SamplingParams``; reals in float64.
        label: ``class_label``; -1 where there is none.
        tell: ``logprobs``.
        bias_ids, bias: ``logit_bias``, padded with zeros to the longest.
        own: the sampler's own columns.
    """

    tokens: Int[Tensor, " T"]
    editable: Bool[Tensor, " T"]
    lengths: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    steps: Int[Tensor, " B"]
    calls: Int[Tensor, " B"]
    from_step: Int[Tensor, " B"]
    from_time: Float[Tensor, " B"]
    seed: Int[Tensor, " B"]
    temperature: Float[Tensor, " B"]
    top_p: Float[Tensor, " B"]
    guidance_scale: Float[Tensor, " B"]
    label: Int[Tensor, " B"]
    tell: Bool[Tensor, " B"]
    bias_ids: Int[Tensor, "B M"]
    bias: Float[Tensor, "B M"]
    own: State

    @classmethod
    def of(
        cls,
        canvases: Sequence[tuple[Sequence[int], Sequence[bool], SamplingParams]],
        device: torch.device | str = "cpu",
    ) -> CanvasBatch[Any]:
        """Pack canvases of one sampler, given as (tokens, editable, params), at step 0.

        Raises:
            InvalidParam: params that do not fit their canvas.
        """
        params = [p for _, _, p in canvases]
        free = [sum(editable) for _, editable, _ in canvases]
        new = Columns(device)
        biases = [p.logit_bias for p in params]
        width = max(map(len, biases))
        return CanvasBatch(
            tokens=new.integers([t for tokens, _, _ in canvases for t in tokens]),
            editable=new.flags([e for _, editable, _ in canvases for e in editable]),
            lengths=new.integers([len(tokens) for tokens, _, _ in canvases]),
            step=new.integers([0] * len(params)),
            steps=new.integers([p.steps for p in params]),
            calls=new.integers([p.calls for p in params]),
            from_step=new.integers([0] * len(params)),
            from_time=new.reals([1.0] * len(params)),
            seed=new.integers([p.seed for p in params]),
            temperature=new.reals([p.temperature for p in params]),
            top_p=new.reals([p.top_p for p in params]),
            guidance_scale=new.reals([p.guidance_scale for p in params]),
            label=new.integers([-1 if p.class_label is None else p.class_label for p in params]),
            tell=new.flags([p.logprobs for p in params]),
            bias_ids=new.integers(_filled(biases, width, 0)).view(len(params), width),
            bias=new.reals(_filled(biases, width, 1)).view(len(params), width),
            own=params[0].own.state.of(params, free, new),
        )

    @property
    def size(self) -> int:
        """B, the number of canvases."""
        return self.lengths.numel()

    @cached_property
    def owner(self) -> tuple[Tensor, Tensor]:
        """(canvas, position within it) of each packed token, both [T]."""
        total = self.tokens.numel()
        canvas = torch.repeat_interleave(self.lengths, output_size=total)
        starts = self.lengths.cumsum(0) - self.lengths
        return canvas, torch.arange(total, device=canvas.device) - starts[canvas]

    @property
    def rank(self) -> Int[Tensor, " T"]:
        """How many editable positions lie before each; blocks count these. A clamped position has
        the rank of the editable one before it, -1 in front of them all.
        """
        canvas, _ = self.owner
        written = self.editable.cumsum(0)
        earlier = written[self.lengths.cumsum(0) - 1]
        return written - F.pad(earlier[:-1], (1, 0))[canvas] - 1

    @property
    def finished(self) -> Bool[Tensor, " B"]:
        """Which canvases have been through all their calls."""
        return self.step >= self.calls

    @property
    def block(self) -> Int[Tensor, " B"]:
        """The block of the step that comes next; 0 for samplers without planned blocks."""
        return self.own.block(self.step)

    def leading(self, final: Bool[Tensor, " T"]) -> Int[Tensor, " B"]:
        """Positions of each canvas before the first that is not final."""
        canvas, position = self.owner
        ends = torch.where(final, self.lengths[canvas], position)
        return self.lengths.scatter_reduce(0, canvas, ends, "amin")

    def joined(self, other: CanvasBatch[State]) -> CanvasBatch[State]:
        """These canvases, then those of another batch."""
        columns = {n: joined((getattr(self, n), getattr(other, n))) for n in _columns()}
        return CanvasBatch(**columns, own=self.own.joined(other.own))

    def kept(self, keep: Tensor) -> CanvasBatch[State]:
        """The canvases where keep [B] is true, in order."""
        positions = keep.repeat_interleave(self.lengths)
        columns = {n: getattr(self, n)[positions if n in BY_POSITION else keep] for n in _columns()}
        kept = CanvasBatch(**columns, own=self.own.kept(keep))
        width = int((kept.bias != 0).any(0).sum())
        return replace(kept, bias_ids=kept.bias_ids[:, :width], bias=kept.bias[:, :width])

    def with_tokens(self, tokens: Tensor) -> CanvasBatch[State]:
        """The same batch with other tokens [T]."""
        return replace(self, tokens=tokens)

    def advanced(self, tokens: Tensor) -> CanvasBatch[State]:
        """The batch one step later, with new tokens [T]."""
        return replace(self, tokens=tokens, step=self.step + 1)


def _columns() -> tuple[str, ...]:
    """Names of the common columns."""
    return tuple(f.name for f in fields(CanvasBatch) if f.name != "own")


def _filled(biases: Sequence[Sequence[tuple[int, float]]], width: int, part: int) -> list:
    """One part of all (id, bias) pairs, each request's padded with zeros to a width."""
    return [b[part] for pairs in biases for b in (*pairs, *[(0, 0.0)] * (width - len(pairs)))]
