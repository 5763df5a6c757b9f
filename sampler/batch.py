"""The packed canvases of all running requests of one sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.layout import Layout
from sampler.packing import joined
from sampler.params import SamplingParams
from sampler.state import Columns, SamplerState

State = TypeVar("State", bound=SamplerState)


@dataclass(frozen=True)
class CanvasBatch(Generic[State]):
    """B canvases lie end to end in T packed tokens. Their settings are host columns with one entry
    per canvas; only the tokens may be on another device.

    Attributes:
        tokens: ids.
        host: where the canvases lie, on the host.
        layout: the same on the device of the tokens.
        step, steps, calls: step that comes next, T of the request, calls until it is done.
        from_step, from_time: where the time grid of the steps ahead begins (``deadline``).
        seed, temperature, top_p, guidance_scale: as in ``SamplingParams``; reals in float64.
        label: ``class_label``; -1 where there is none.
        tell: ``logprobs``.
        bias_ids, bias: ``logit_bias``, padded with zeros to the longest.
        own: the sampler's own columns.
        mirror: the tokens on the host, where they are known there.
    """

    tokens: Int[Tensor, " T"]
    host: Layout
    layout: Layout
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
    mirror: Int[Tensor, " T"] | None = None

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
        new = Columns()
        given = new.integers([t for tokens, _, _ in canvases for t in tokens])
        biases = [p.logit_bias for p in params]
        width = max(map(len, biases))
        host = Layout.of(
            [len(tokens) for tokens, _, _ in canvases],
            [e for _, editable, _ in canvases for e in editable],
        )
        return CanvasBatch(
            tokens=given.to(device),
            host=host,
            layout=host.to(device),
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
            mirror=given,
        )

    @property
    def size(self) -> int:
        """B, the number of canvases."""
        return self.host.size

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Positions of each canvas."""
        return self.host.lengths

    @property
    def editable(self) -> Bool[Tensor, " T"]:
        """Where the sampler may write."""
        return self.layout.editable

    @property
    def owner(self) -> tuple[Tensor, Tensor]:
        """(canvas, position within it) of each packed token, both [T]."""
        return self.layout.canvas, self.layout.position

    @property
    def finished(self) -> Bool[Tensor, " B"]:
        """Which canvases have been through all their calls."""
        return self.step >= self.calls

    @property
    def block(self) -> Int[Tensor, " B"]:
        """The block of the step that comes next; 0 for samplers without planned blocks."""
        return self.own.block(self.step)

    @property
    def on_host(self) -> CanvasBatch[State]:
        """The same batch with its tokens on the host."""
        if self.layout is self.host:
            return self
        tokens = self.tokens.cpu() if self.mirror is None else self.mirror
        return replace(self, tokens=tokens, layout=self.host)

    def leading(self, final: Bool[Tensor, " T"]) -> Int[Tensor, " B"]:
        """Positions of each canvas before the first that is not final; of a batch on the host."""
        open_ = torch.cat((~final, final.new_ones(1))).nonzero()[:, 0]
        starts = self.host.ends - self.lengths
        first = open_[torch.searchsorted(open_, starts)]
        return torch.minimum(first - starts, self.lengths)

    def joined(self, other: CanvasBatch[State]) -> CanvasBatch[State]:
        """These canvases, then those of another batch on the same device."""
        columns = {n: joined((getattr(self, n), getattr(other, n))) for n in _columns()}
        tokens = torch.cat((self.tokens, other.tokens))
        mirror = torch.cat((self.on_host.tokens, other.on_host.tokens))
        host = Layout.of(
            torch.cat((self.lengths, other.lengths)).numpy(),
            torch.cat((self.host.editable, other.host.editable)).numpy(),
        )
        layout, own = host.to(tokens.device), self.own.joined(other.own)
        return CanvasBatch(tokens, host, layout, **columns, own=own, mirror=mirror)

    def kept(self, keep: Bool[Tensor, " B"]) -> CanvasBatch[State]:
        """The canvases where keep is true, in order."""
        positions = keep[self.host.canvas].nonzero()[:, 0]
        host = Layout.of(self.lengths[keep].numpy(), self.host.editable[positions].numpy())
        device = self.tokens.device
        columns = {n: getattr(self, n)[keep] for n in _columns()}
        width = int((columns["bias"] != 0).any(0).sum())
        columns |= {n: columns[n][:, :width] for n in ("bias_ids", "bias")}
        tokens = self.tokens[positions.to(device, non_blocking=True)]
        mirror = None if self.mirror is None else self.mirror[positions]
        layout, own = host.to(device), self.own.kept(keep)
        return CanvasBatch(tokens, host, layout, **columns, own=own, mirror=mirror)

    def with_tokens(self, tokens: Tensor) -> CanvasBatch[State]:
        """The same batch with other tokens [T]."""
        mirror = tokens if tokens.device.type == "cpu" else None
        return replace(self, tokens=tokens.to(self.tokens.device), mirror=mirror)

    def masked(self, mask_id: int) -> CanvasBatch[State]:
        """The same batch with the mask at all editable positions."""
        tokens = torch.where(self.host.editable, mask_id, self.on_host.tokens)
        return self.with_tokens(tokens)

    def advanced(self, tokens: Tensor) -> CanvasBatch[State]:
        """The batch one step later, with new tokens [T]."""
        return replace(self, tokens=tokens, step=self.step + 1, mirror=None)


def _columns() -> tuple[str, ...]:
    """Names of the common columns."""
    other = ("tokens", "host", "layout", "own", "mirror")
    return tuple(f.name for f in fields(CanvasBatch) if f.name not in other)


def _filled(biases: Sequence[Sequence[tuple[int, float]]], width: int, part: int) -> list:
    """One part of all (id, bias) pairs, each request's padded with zeros to a width."""
    return [b[part] for pairs in biases for b in (*pairs, *[(0, 0.0)] * (width - len(pairs)))]
