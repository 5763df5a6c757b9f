"""Whether a device has the memory that models need, said before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.checkpoints.devices import device_named
from models.checkpoints.memory import Needs, available_memory
from models.errors import CheckpointError
from models.interface import ModelInfo
from server.cli.downloads import bytes_text
from server.config import Settings
from server.engine.factory import position_limit
from server.engine.needs import step_bytes

ITEMSIZES = {"bfloat16": 2, "float32": 4}
CANVASES, LENGTH = (1, 8, 32), 1024  # of the steps that ``xdlm info`` shows


def memory_of(needs: Needs) -> dict[str, Any]:
    """Bytes of the weights by type, and of a step of bfloat16 on CUDA by its canvases of 1,024."""
    return {
        "weights": {name: needs.weights(size) for name, size in ITEMSIZES.items()},
        "step": {str(n): step_bytes(needs, n * LENGTH, 2, "cuda") for n in CANVASES},
    }


def memory_line(needs: Needs) -> str:
    """The same in words."""
    memory = memory_of(needs)
    weights = ", ".join(f"{bytes_text(n)} in {name}" for name, n in memory["weights"].items())
    steps = ", ".join(f"{bytes_text(n)} for {count}" for count, n in memory["step"].items())
    return f"weights {weights}; a step on CUDA in bfloat16 (computed), canvases of 1,024: {steps}"


def check_memory(models: Sequence[tuple[ModelInfo, Needs]], settings: Settings) -> None:
    """Refuse models whose weights, with the longest canvas that a step may hold, do not fit.

    Args:
        models: facts with the type of the weights, and sizes.
        settings: of the server; on CUDA each of ``tensor_parallel`` ranks has its own device.

    Raises:
        CheckpointError: with the numbers.
    """
    where = device_named(settings.device)
    weights = sum(needs.weights(ITEMSIZES[info.dtype]) for info, needs in models)
    if where.type == "cuda":
        weights = -(-weights // settings.tensor_parallel)
    most = position_limit(settings, where.type).most
    step = max(
        step_bytes(needs, min(info.max_length, most), ITEMSIZES[info.dtype], where.type)
        for info, needs in models
    )
    has = available_memory(where)
    if weights + step > has:
        names = ", ".join(info.name for info, _ in models)
        raise CheckpointError(
            f"{names}: {bytes_text(weights)} of weights and {bytes_text(step)} for a step of one "
            f"canvas are needed (computed), and {where} has {bytes_text(has)} free; "
            "--force-memory starts anyway"
        )
