"""Whether a device has the memory that models need, said before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.checkpoints.devices import device_named
from models.checkpoints.memory import Needs, available_memory
from models.errors import CheckpointError
from models.interface import ModelInfo
from models.sizes import bytes_text
from server.config import Settings
from server.engine.needs import step_bytes
from server.engine.position_limits import cache_bytes, computed_itemsize, position_limit

ITEMSIZES = {"bfloat16": 2, "float32": 4}
NARROW = ("float8", "int8")
CANVASES, LENGTH = (1, 8, 32), 1024  # of the steps that ``xdlm info`` shows


def memory_of(info: ModelInfo, needs: Needs) -> dict[str, Any]:
    """Bytes of the weights and of a cached position by type, and of a step of bfloat16 on CUDA by
    its canvases of 1,024.
    """
    kept = info.cache
    return {
        "cached_position": {n: kept.bytes_of(1, s) for n, s in ITEMSIZES.items()} if kept else {},
        "weights": {n: weights_bytes(needs, n) for n in (*ITEMSIZES, *NARROW)},
        "step": {str(n): step_bytes(needs, n * LENGTH, 2, "cuda") for n in CANVASES},
    }


def memory_line(info: ModelInfo, needs: Needs) -> str:
    """The same in words."""
    memory = memory_of(info, needs)
    by_type = memory["weights"]
    weights = ", ".join(f"{bytes_text(n)} in {name}" for name, n in by_type.items())
    steps = ", ".join(f"{bytes_text(n)} for {count}" for count, n in memory["step"].items())
    kept = ", ".join(f"{bytes_text(n)} in {name}" for name, n in memory["cached_position"].items())
    cached = f"; a cached position {kept}" if kept else ""
    return (
        f"weights {weights}{cached}; "
        f"a step on CUDA in bfloat16 (computed), canvases of 1,024: {steps}"
    )


def weights_bytes(needs: Needs, dtype: str) -> int:
    """Bytes of the weights in a type. With int8 the embedding stays in bfloat16, with float8 the
    head too.
    """
    if dtype == "int8":
        return needs.weights(1) + needs.vocab_size * needs.width
    if dtype == "float8":
        return needs.weights(1) + needs.outer
    return needs.weights(ITEMSIZES[dtype])


def check_memory(models: Sequence[tuple[ModelInfo, Needs]], settings: Settings) -> None:
    """Refuse models whose weights, with the longest canvas that a step may hold, do not fit.

    Args:
        models: facts with the type of the weights, and sizes.
        settings: of the server; on CUDA each of ``tensor_parallel`` ranks has its own device.

    Raises:
        CheckpointError: with the numbers.
    """
    where = device_named(settings.device)
    weights = sum(weights_bytes(needs, info.dtype) for info, needs in models)
    if where.type == "cuda":
        weights = -(-weights // settings.tensor_parallel)
    most = position_limit(settings, where.type).most
    step = max(
        step_bytes(
            needs, min(info.max_length, most), computed_itemsize(info, where.type), where.type
        )
        for info, needs in models
    )
    cache = 0
    if where.type == "cuda":  # on a CPU it is taken as it is used
        sizes = (cache_bytes(info, settings, where.type) for info, _ in models)
        cache = -(-sum(sizes) // settings.tensor_parallel)
    has = available_memory(where)
    if weights + step + cache > has:
        names = ", ".join(info.name for info, _ in models)
        kept = f", {bytes_text(cache)} of cache" if cache else ""
        raise CheckpointError(
            f"{names}: {bytes_text(weights)} of weights{kept} and {bytes_text(step)} for a step of "
            f"one canvas are needed (computed), and {where} has {bytes_text(has)} free; "
            "--force-memory starts anyway"
        )
