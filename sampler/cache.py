"""Which positions a pass of the network runs where keys and values of earlier passes are kept.

One rule: run = window | asked | changed. ``window`` follows from the mode, ``asked`` are positions
whose logits the sampler reads, ``changed`` those that hold another token than the one whose keys
and values are kept. So no slot that is read holds keys and values of a token that is not there any
more; what may be old is the rest of the canvas as it was when they were computed. A pass that runs
all positions is exact.

=========  =========================================  ============================================
mode       window                                     all positions are run
=========  =========================================  ============================================
none       all                                        in every step
prompt     positions that the sampler may write       first step, and every ``cache_interval`` steps
prefix     from the active block on                   when a block begins, and every interval
dual       the active block                           likewise
vicinity   the active block and ``cache_vicinity``    likewise
           positions on either side
causal     blocks from the first that has changed to  never: what is kept is exact
           the last that is asked about
encoded    what has changed before the active block,  never: what is kept is exact
           and this block
=========  =========================================  ============================================

``prefix`` and ``dual`` are the two caches of Fast-dLLM (arXiv:2505.22618), ``vicinity`` that of
dInfer (arXiv:2510.08666). ``causal`` is for networks with block-causal attention, and no choice;
``encoded`` for those that encode what is final and denoise the block after it: keys and values of
that block are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sampler.layout import Layout

if TYPE_CHECKING:
    from sampler.batch import CanvasBatch

MODES = ("none", "prompt", "prefix", "dual", "vicinity")
NONE, PROMPT, PREFIX, DUAL, VICINITY = range(len(MODES))
CAUSAL, ENCODED = len(MODES), len(MODES) + 1
NOTHING = -1
"""In place of an id: no keys and values are kept. In place of a slot or a step: there is none."""
FAR = np.iinfo(np.int64).max // 2


@dataclass(frozen=True)
class CacheColumns:
    """Settings and state of the caches of B canvases; each an integer column [B] on the host.

    Attributes:
        mode: index in ``MODES``, ``CAUSAL`` or ``ENCODED``.
        interval: steps after which all positions are run again; 0 for none.
        vicinity: positions on either side of the block.
        grid: positions of a block of block-causal attention; 0 where attention is bidirectional.
        shifted: 1 where a position's logits come from the position before it.
        start: first slot of the canvas; ``NOTHING`` where it is not cached.
        twin: first slot of its unconditional copy; ``NOTHING`` where there is none.
        refreshed: step in which all positions were run last; ``NOTHING`` before the first.
        block: rank of the first position of the block that was active then.
    """

    mode: Int[Tensor, " B"]
    interval: Int[Tensor, " B"]
    vicinity: Int[Tensor, " B"]
    grid: Int[Tensor, " B"]
    shifted: Int[Tensor, " B"]
    start: Int[Tensor, " B"]
    twin: Int[Tensor, " B"]
    refreshed: Int[Tensor, " B"]
    block: Int[Tensor, " B"]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> CacheColumns:
        """From arrays or lists by name; ``refreshed`` and ``block`` as before the first step."""
        size = len(columns["mode"])
        fresh = dict.fromkeys(("refreshed", "block"), np.full(size, NOTHING))
        given = {name: np.asarray(column, dtype=np.int64) for name, column in columns.items()}
        return cls(**{n: torch.from_numpy(column) for n, column in (fresh | given).items()})


@dataclass(frozen=True)
class Reading:
    """The positions that a step runs of B canvases, on the host, and what is kept after it.

    Attributes:
        run: the positions.
        starts, twins: as in ``CacheColumns``.
        used: leading slots of each canvas that hold keys and values after the step.
        held: ids whose keys and values are kept then; ``NOTHING`` elsewhere.
        cache: the columns after the step.
        denoised: for networks that encode what is final, the first position of the active block,
            and the steps that it has been through; else nothing.
    """

    run: Bool[np.ndarray, " T"]
    starts: Int[np.ndarray, " B"]
    twins: Int[np.ndarray, " B"]
    used: Int[np.ndarray, " B"]
    held: Int[np.ndarray, " T"] | None = None
    cache: CacheColumns | None = None
    denoised: tuple[Int[np.ndarray, " B"], ...] = ()

    @classmethod
    def whole(cls, host: Layout, counts: Int[np.ndarray, " B"]) -> Reading:
        """Of canvases that are not cached: all positions where any is asked about."""
        none = np.full(len(counts), NOTHING)
        run = (counts > 0)[host.canvas.numpy()]
        return cls(run, none, none, host.lengths.numpy())

    def taken(self, batch: CanvasBatch) -> CanvasBatch:
        """A batch after the step."""
        if self.cache is None:
            return batch
        return replace(batch, cache=self.cache, held=self.held)

    @classmethod
    def of(cls, batch: CanvasBatch, asked: Bool[np.ndarray, " T"], mask_id: int | None) -> Reading:
        """The next step of a batch.

        Args:
            batch: the canvases; their tokens on the host.
            asked: positions whose logits are read.
            mask_id: of the vocabulary.
        """
        cache, host, held = batch.cache, batch.host, batch.held
        assert cache is not None and held is not None
        c = {name: getattr(cache, name).numpy() for name in cache.names()}
        tokens, step = batch.tokens.numpy(), batch.step.numpy()
        canvas, position = host.canvas.numpy(), host.position.numpy()
        needed = _with_predictors(asked, position, c["shifted"][canvas])
        begins = host.ends.numpy() - host.lengths.numpy()
        reads = np.logical_or.reduceat(asked, begins)
        changed = held != tokens
        first, end = batch.own.active_block(batch, mask_id)
        mode = c["mode"]
        by_block = (mode == PREFIX) | (mode == DUAL) | (mode == VICINITY)
        due = (c["refreshed"] < 0) | (by_block & (c["block"] != first))
        due |= (c["interval"] > 0) & (step - c["refreshed"] >= c["interval"])
        full = reads & ((mode == NONE) | (due & (mode < CAUSAL)))
        bounds = _bounds_of_block(host, first, end, begins)
        window = _window(host, mode, *bounds, c["vicinity"])
        run = reads[canvas] & (full[canvas] | window | needed | changed)
        kept = np.where(run, tokens, held)
        used = host.lengths.numpy()
        if (causal := mode == CAUSAL).any():
            grid = np.where(causal, c["grid"], 1)
            block = position // grid[canvas]
            oldest = np.minimum.reduceat(np.where(changed, block, FAR), begins)[canvas]
            last = np.maximum.reduceat(np.where(needed, block, -1), begins)[canvas]
            stale = (block >= oldest) & reads[canvas]
            here = causal[canvas]
            run = np.where(here, reads[canvas] & (needed | (stale & (block <= last))), run)
            # later blocks have seen what is not there any more
            kept = np.where(here, np.where(run, tokens, np.where(stale, NOTHING, held)), kept)
            reached = np.maximum.reduceat(np.where(kept != NOTHING, position + 1, 0), begins)
            used = np.where(causal, reached, used)
        denoised: tuple[np.ndarray, ...] = ()
        if (encoded := mode == ENCODED).any():
            low, high = bounds
            oldest = np.minimum.reduceat(np.where(changed, position, FAR), begins)
            here, before = encoded[canvas], position < low[canvas]
            stale = before & (position >= oldest[canvas])
            inside = ~before & (position < high[canvas])
            run = np.where(here, reads[canvas] & (stale | inside), run)
            kept = np.where(
                here, np.where(run & before, tokens, np.where(before, held, NOTHING)), kept
            )
            used = np.where(encoded, high, used)
            denoised = low, batch.own.block_steps(batch)
        moved = replace(
            cache,
            refreshed=torch.from_numpy(np.where(full, step, c["refreshed"])),
            block=torch.from_numpy(np.where(full, first, c["block"])),
        )
        kept = np.where((mode == NONE)[canvas], NOTHING, kept)
        return cls(run, c["start"], c["twin"], used, kept, moved, denoised)


def _with_predictors(
    asked: Bool[np.ndarray, " T"],
    position: Int[np.ndarray, " T"],
    shifted: Int[np.ndarray, " T"],
) -> Bool[np.ndarray, " T"]:
    """The positions that are asked about, and those whose hidden states tell of them."""
    if not shifted.any():
        return asked
    return asked | np.append((asked & (shifted != 0) & (position > 0))[1:], False)


def _bounds_of_block(
    host: Layout,
    first: Int[np.ndarray, " B"],
    end: Int[np.ndarray, " B"],
    begins: Int[np.ndarray, " B"],
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """The first position of each active block and the one after its last, from ranks."""
    canvas, position, rank = (t.numpy() for t in (host.canvas, host.position, host.rank))
    in_block = host.editable.numpy() & (rank >= first[canvas]) & (rank < end[canvas])
    low = np.minimum.reduceat(np.where(in_block, position, FAR), begins)
    return low, np.maximum.reduceat(np.where(in_block, position, -1), begins) + 1


def _window(
    host: Layout,
    mode: Int[np.ndarray, " B"],
    low: Int[np.ndarray, " B"],
    high: Int[np.ndarray, " B"],
    vicinity: Int[np.ndarray, " B"],
) -> Bool[np.ndarray, " T"]:
    """Positions that are run whatever is asked; ``low`` and ``high`` bound the active block."""
    canvas, position, free = (t.numpy() for t in (host.canvas, host.position, host.editable))
    side = np.where(mode == VICINITY, vicinity, 0)
    high = np.where(mode == PREFIX, FAR, high + side)
    near = (position >= (low - side)[canvas]) & (position < high[canvas])
    return np.where((mode == PROMPT)[canvas], free, near & (mode < CAUSAL)[canvas])
