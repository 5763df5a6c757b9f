"""The packed canvases of all running requests of one sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.cache import NONE, CacheColumns
from sampler.constraints.region import Region
from sampler.layout import Layout
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
        guess: ``guesses``.
        bias_ids, bias: ``logit_bias``, padded with zeros to the longest.
        own: the sampler's own columns.
        mirror: the tokens on the host, where they are known there.
        cache: what is kept of the canvases' keys and values; None where nothing can be.
        held: ids whose keys and values are kept, on the host (``cache.NOTHING`` for none).
        noise: positions that hold noise which no mask shows, on the host; None where a mask does.
        active: which canvases take part in steps that are not proposed yet; the others stay as they
            are. None for all.
        regions: constraint of each canvas' text, None where there is none; empty for none at all.
        stands: editable positions that begin with a given token, on the host, until the sampler has
            begun; None for none.
        asked: rows of logits that each canvas asks for in the next step, where that is known.
        ahead: the proposal for the next step, where it was made with the one before
            (``proposed.Ahead``). A batch that is changed in any way has none.
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
    guess: Bool[Tensor, " B"]
    bias_ids: Int[Tensor, "B M"]
    bias: Float[Tensor, "B M"]
    own: State
    mirror: Int[Tensor, " T"] | None = None
    cache: CacheColumns | None = None
    held: Int[np.ndarray, " T"] | None = None
    noise: Bool[np.ndarray, " T"] | None = None
    active: Bool[Tensor, " B"] | None = None
    regions: tuple[Region | None, ...] = ()
    stands: Bool[np.ndarray, " T"] | None = None
    asked: np.ndarray | None = None
    ahead: Any = None

    @classmethod
    def of(
        cls,
        canvases: Sequence[tuple[Sequence[int], Sequence[bool], SamplingParams]],
        device: torch.device | str = "cpu",
        regions: Sequence[Region | None] = (),
        opening: tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]] | None = None,
    ) -> CanvasBatch[Any]:
        """Pack canvases of one sampler, given as (tokens, editable, params), at step 0.

        Args:
            canvases: the canvases.
            device: where their tokens go.
            regions: see the attributes.
            opening: editable positions whose token stands when the sampler begins, and those of
                them that keep it (``Layout.pinned``); None for neither.

        Raises:
            InvalidParam: params that do not fit their canvas.
        """
        params = [p for _, _, p in canvases]
        free = [sum(editable) for _, editable, _ in canvases]
        new = Columns()
        given = new.integers([t for tokens, _, _ in canvases for t in tokens])
        bias_ids, bias = bias_columns(params)
        first = [p.own.first_rank(given_before(editable)) for _, editable, p in canvases]
        host = Layout.of(
            [len(tokens) for tokens, _, _ in canvases],
            [e for _, editable, _ in canvases for e in editable],
            first,
            None if opening is None else opening[1],
        )
        layout, sent = host.sent(given, torch.device(device))
        return CanvasBatch(
            tokens=sent,
            host=host,
            layout=layout,
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
            guess=new.flags([p.guesses for p in params]),
            bias_ids=bias_ids,
            bias=bias,
            own=params[0].own.state.of(params, free, first, new),
            mirror=given,
            regions=regions_of(regions),
            stands=None if opening is None else opening[0],
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
    def cached(self) -> bool:
        """Whether keys and values of any canvas are kept."""
        return self.cache is not None and bool((self.cache.mode != NONE).any())

    @property
    def on_host(self) -> CanvasBatch[State]:
        """The same batch with its tokens on the host."""
        if self.layout is self.host:
            return self
        tokens = self.tokens.cpu() if self.mirror is None else self.mirror
        return replace(self, tokens=tokens, layout=self.host, ahead=None)

    def leading(self, final: Bool[Tensor, " T"]) -> Int[Tensor, " B"]:
        """Positions of each canvas before the first that is not final; of a batch on the host."""
        open_ = torch.cat((~final, final.new_ones(1))).nonzero()[:, 0]
        starts = self.host.ends - self.lengths
        first = open_[torch.searchsorted(open_, starts)]
        return torch.minimum(first - starts, self.lengths)

    def columns(self) -> dict[str, Tensor]:
        """The columns with one number per canvas, [B]; the sampler's own as ``own.NAME``."""
        own = {f"own.{n}": getattr(self.own, n) for n in self.own.of_canvases()}
        return {n: getattr(self, n) for n in COLUMNS} | own

    def kept(self, keep: Bool[Tensor, " B"]) -> CanvasBatch[State]:
        """The canvases where keep is true, in order."""
        positions = keep[self.host.canvas].nonzero()[:, 0]
        host = Layout.of(
            self.lengths[keep].numpy(),
            self.host.editable[positions].numpy(),
            self.host.first[keep].numpy(),
            None if self.host.pinned is None else self.host.pinned[positions].numpy(),
        )
        columns = {n: getattr(self, n)[keep] for n in (*COLUMNS, "bias_ids", "bias")}
        layout, tokens = host.sent(self.on_host.tokens[positions], self.tokens.device)
        mirror = self.on_host.tokens[positions]
        own, regions = self.own.kept(keep), tuple(compress(self.regions, keep.tolist()))
        kept = CanvasBatch(tokens, host, layout, **columns, own=own, mirror=mirror, regions=regions)
        return kept if self.noise is None else replace(kept, noise=self.noise[positions.numpy()])

    def with_tokens(self, tokens: Tensor) -> CanvasBatch[State]:
        """The same batch with other tokens [T]."""
        mirror = tokens if tokens.device.type == "cpu" else None
        tokens = tokens.to(self.tokens.device)
        return replace(self, tokens=tokens, mirror=mirror, asked=None, ahead=None)

    def masked(self, mask_id: int) -> CanvasBatch[State]:
        """The same batch with the mask at all editable positions."""
        tokens = torch.where(self.host.editable, mask_id, self.on_host.tokens)
        return self.with_tokens(tokens)

    def advanced(self, tokens: Tensor) -> CanvasBatch[State]:
        """The batch one step later, with new tokens [T]."""
        return replace(self.with_tokens(tokens), step=self.step + 1)


COLUMNS = (
    *("step", "steps", "calls", "from_step", "from_time", "seed", "temperature", "top_p"),
    *("guidance_scale", "label", "tell", "guess"),
)
"""Fields that have one number per canvas, whatever the sampler."""


def regions_of(regions: Sequence[Region | None]) -> tuple[Region | None, ...]:
    """The constraints of canvases; empty where none has one."""
    return tuple(regions) if any(region is not None for region in regions) else ()


def given_before(editable: Sequence[bool]) -> int:
    """Given positions before the first editable one."""
    return next((i for i, free in enumerate(editable) if free), len(editable))


def bias_columns(params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor]:
    """Ids and biases [B, M] of ``logit_bias``, each filled up with zeros to the longest."""
    biases = [p.logit_bias for p in params]
    width, new = max(map(len, biases)), Columns()
    filled = [pair for pairs in biases for pair in (*pairs, *[(0, 0.0)] * (width - len(pairs)))]
    ids, amounts = new.integers([id_ for id_, _ in filled]), new.reals([b for _, b in filled])
    return ids.view(len(biases), width), amounts.view(len(biases), width)
