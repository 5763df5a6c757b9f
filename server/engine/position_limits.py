"""How many positions a step may have: a setting, or what device, pace and free memory allow."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import torch

from models.checkpoints.devices import arithmetic, type_called
from models.checkpoints.load import Checkpoint
from models.checkpoints.memory import available_memory
from models.interface import ModelInfo
from server.config import Settings
from server.engine.needs import step_bytes
from server.engine.step_timer import PositionLimit

MAX_POSITIONS = {"cpu": 512, "cuda": 16384}
"""Default of the setting ``max_positions``, by device. On a CPU each position lengthens the step
for every request in it, but up to some hundreds each of them costs less
(``benchmarks/step_positions.py``). On a GPU it is the most: see ``STEP_SECONDS``.
"""
STEP_SECONDS = {"cpu": math.inf, "cuda": 0.1}
"""Where the setting is not given, a step has no more positions than it can take in this time at the
measured pace, by device. Beyond some thousands a GPU is no faster per position, and each step makes
all its requests wait.
"""
LEAST_POSITIONS = 1024
"""Positions of a step however slow the pace: below, weights are read for too few."""
MEMORY_SHARE = 0.9
"""Part of the free memory that steps may take where the setting is not given."""
LEAST_BY_MEMORY = 64
"""Positions of a step however little memory is free. A canvas that is longer runs alone."""
CACHE_POSITIONS = 8192
"""Default of the setting ``cache_positions``. On a CPU memory is taken when it is first used. On a
GPU it would be taken at once: there is a default only for networks that always keep theirs.
"""


def position_limit(settings: Settings, device: str) -> PositionLimit:
    """Positions of a step on a kind of device, whatever memory is free."""
    if settings.max_positions:
        return PositionLimit(settings.max_positions)
    return PositionLimit(MAX_POSITIONS[device], STEP_SECONDS[device], LEAST_POSITIONS)


def position_limits(models: Sequence[Checkpoint], settings: Settings) -> list[PositionLimit]:
    """Positions of a step of each model that a server has loaded, before its caches are reserved.

    Where the setting is open, steps get at most ``MEMORY_SHARE`` of the memory that is free beside
    the caches, models in equal parts: the steps of all may run at the same time.
    """
    found = []
    for loaded in models:
        where = loaded.device
        limit = position_limit(settings, where.type)
        if not settings.max_positions and loaded.needs is not None:
            there = [other for other in models if other.device.type == where.type]
            kept = sum(cache_bytes(other.info, settings, where.type) for other in there)
            free = available_memory(where) - -(-kept // settings.tensor_parallel)
            limit = within(limit, loaded, int(MEMORY_SHARE * free / len(there)))
        found.append(limit)
    return found


def within(limit: PositionLimit, loaded: Checkpoint, room: int) -> PositionLimit:
    """A limit, lowered to the positions that a step of a model can have in ``room`` bytes."""
    needs, itemsize = loaded.needs, computed_itemsize(loaded.info, loaded.device.type)
    if needs is None:
        return limit
    counts = range(1, limit.most + 1)
    device = loaded.device.type
    most = bisect_right(counts, room, key=lambda n: step_bytes(needs, n, itemsize, device))
    if most == limit.most:
        return limit
    return replace(limit, most=min(limit.most, max(most, LEAST_BY_MEMORY)), by_memory=True)


def computed_itemsize(info: ModelInfo, device: str) -> int:
    """Bytes of a number in the type that a kind of device computes in with a model's weights."""
    return arithmetic(type_called(info.dtype), torch.device(device)).itemsize


def cache_slots(settings: Settings, info: ModelInfo, device: str) -> int:
    """Positions whose keys and values can be kept for a checkpoint on a kind of device."""
    if info.cache is None:
        return 0
    if settings.cache_positions:
        return settings.cache_positions
    always = info.block_length is not None or info.canvas_length is not None
    return CACHE_POSITIONS if device == "cpu" or always else 0


def cache_bytes(info: ModelInfo, settings: Settings, device: str) -> int:
    """Bytes of the keys and values that a server has room for."""
    slots = cache_slots(settings, info, device)
    itemsize = computed_itemsize(info, device)
    return 0 if info.cache is None else info.cache.bytes_of(slots, itemsize)
