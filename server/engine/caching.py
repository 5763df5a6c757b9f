"""Which requests of a checkpoint keep keys and values, and what a step of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from models.interface import ModelInfo
from sampler.batch import given_before
from sampler.cache import CAUSAL, DUAL, ENCODED, MODES, NONE, NOTHING, PREFIX, PROMPT, CacheColumns
from sampler.params import InvalidParam
from server.engine.events import GenerationRequest
from server.engine.scheduler import Work

COLUMNS = tuple(f"cache.{name}" for name in CacheColumns.names())
"""Names of the columns in the table of canvases."""
ENCODED_TOGETHER = 16
"""``Caching.prefix_length`` of networks that encode their prompt position by position."""


@dataclass(frozen=True)
class Caching:
    """How the requests of a checkpoint are cached.

    Attributes:
        info: facts of the checkpoint.
        slots: positions whose keys and values can be kept; 0 for none.
    """

    info: ModelInfo
    slots: int

    def check(self, request: GenerationRequest) -> None:
        """Refuse a cache that there is no room for, or none of its kind.

        Raises:
            InvalidParam: naming ``cache``.
        """
        if self.info.canvas_length is not None and (size := _size(request)) > self.slots:
            reason = f"and the prompt take {size} positions; cache_positions is {self.slots}"
            raise InvalidParam("max_tokens", reason)
        if request.params.cache == MODES[NONE]:
            return
        if self.info.cache is None:
            raise InvalidParam("cache", "must be none: this model keeps no keys and values")
        if self.info.canvas_length is not None:
            raise InvalidParam("cache", "must be none: what this model encodes is always cached")
        if self.info.block_length is not None:
            length = self.info.block_length
            reason = f"must be none: blocks of {length} of this model are always cached, exactly"
            raise InvalidParam("cache", reason)
        if not self.slots:
            raise InvalidParam("cache", "must be none: this server has no cache_positions")
        if (size := _size(request)) > self.slots:
            reason = f"takes {size} positions for this request; cache_positions is {self.slots}"
            raise InvalidParam("cache", reason)

    def mode(self, request: GenerationRequest) -> int:
        """The mode of a request, as in ``CacheColumns``."""
        if not self.slots or self.info.cache is None or _size(request) > self.slots:
            return NONE
        if self.info.canvas_length is not None:
            return ENCODED
        if self.info.block_length is not None:
            return CAUSAL
        return MODES.index(request.params.cache)

    def work(self, request: GenerationRequest) -> Work:
        """The cost of a request: positions that the network runs in a step on average."""
        mode, whole = self.mode(request), request.work
        if mode == NONE:
            return whole
        params, length = request.params, request.length
        free = sum(request.editable) + request.spare
        block = min(free, params.own.block_positions(free))
        blocks = max(1, -(-free // max(1, block)))
        steps = whole.steps
        if mode in (CAUSAL, ENCODED):
            rows = length + steps * min(length, block)
        else:
            refreshes = 1 if mode == PROMPT else blocks
            if params.cache_interval is not None:
                refreshes = max(refreshes, -(-steps // params.cache_interval))
            refreshes = min(refreshes, steps)
            window = {PROMPT: free, DUAL: block, PREFIX: (free + block) // 2}
            near = min(length, block + 2 * params.cache_vicinity)
            rows = refreshes * length + (steps - refreshes) * window.get(mode, near)
        passes = whole.positions // length
        positions = min(whole.positions, max(1, -(-passes * rows // steps)))
        return Work(positions, steps, _size(request))

    @property
    def prefix_length(self) -> int | None:
        """Positions by which prompts that begin alike are compared; None where their keys and
        values depend on what comes after them.
        """
        if not self.slots or self.info.canvas_length is None:
            return self.info.block_length if self.slots else None
        return ENCODED_TOGETHER

    def columns(
        self, requests: Sequence[GenerationRequest], starts: Sequence[int]
    ) -> dict[str, Int[np.ndarray, " B"]]:
        """The columns of new canvases, by their names in the table.

        Args:
            requests: theirs.
            starts: first slot of each, ``NOTHING`` where it has none.
        """
        params = [r.params for r in requests]
        modes = [NONE if s < 0 else self.mode(r) for r, s in zip(requests, starts, strict=True)]
        twins = [
            start + r.length if start >= 0 and r.params.guidance_scale != 1.0 else NOTHING
            for r, start in zip(requests, starts, strict=True)
        ]
        columns = CacheColumns.of(
            {
                "mode": modes,
                "interval": [p.cache_interval or 0 for p in params],
                "vicinity": [p.cache_vicinity for p in params],
                "grid": [self.info.block_length or 0] * len(params),
                "shifted": [int(self.info.shifted)] * len(params),
                "start": list(starts),
                "twin": twins,
            }
        )
        return {f"cache.{n}": getattr(columns, n).numpy() for n in CacheColumns.names()}


def given_ids(request: GenerationRequest) -> list[int]:
    """The ids before the first position to write."""
    return request.tokens[: given_before(request.editable)]


def _size(request: GenerationRequest) -> int:
    """Slots of a request: its canvas, and under guidance the unconditional copy."""
    return request.work.positions
