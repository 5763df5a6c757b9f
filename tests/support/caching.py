"""Batches whose keys and values are kept, without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.families.decoder import Decoder
from models.families.diffusion_gemma import DiffusionGemma
from models.families.llada import LLaDA
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.cache import CAUSAL, ENCODED, MODES, NOTHING, CacheColumns
from sampler.interface import Sampler
from sampler.params import SamplingParams
from sampler.step import StepResult, take_step

Canvas = tuple[Sequence[int], Sequence[bool], SamplingParams]


def begun(
    network: LLaDA | Decoder | DiffusionGemma,
    mask_id: int | None,
    canvases: Sequence[Canvas],
    first: int = 0,
    opening: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Sampler, CanvasBatch[Any]]:
    """A sampler and its batch, with extents one after the other from slot ``first`` on;
    ``opening`` as ``CanvasBatch.of`` takes it.
    """
    sampler = SAMPLERS[canvases[0][2].sampler].make(network.config.vocab_size, mask_id, ())
    batch = sampler.begin(CanvasBatch.of(list(canvases), opening=opening))
    params = [p for _, _, p in canvases]
    columns: dict[str, list[int]] = {name: [] for name in CacheColumns.names()[:-2]}
    for p, length in zip(params, batch.lengths.tolist(), strict=True):
        mode = CAUSAL if network.block_length else MODES.index(p.cache)
        mode = ENCODED if network.canvas_length else mode
        twin = first + length if p.guidance_scale != 1.0 else NOTHING
        values = (
            mode,
            p.cache_interval or 0,
            p.cache_vicinity,
            network.block_length or 0,
            int(network.shifted),
            first if mode else NOTHING,
            twin if mode else NOTHING,
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        first += 2 * length
    held = np.full(batch.host.positions, NOTHING)
    return sampler, replace(batch, cache=CacheColumns.of(columns), held=held)


def stepped(
    network: LLaDA | Decoder | DiffusionGemma, sampler: Sampler, batch: CanvasBatch[Any]
) -> list[StepResult]:
    """All steps of a batch."""
    found: list[StepResult] = []
    while not bool(batch.finished.all()):
        found.append(take_step(sampler, network, batch))
        batch = found[-1].batch
    return found
