"""Checkpoint folders described and checked by their files' headers; no weights are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.base import DenoiserModule
from models.checkpoints import weights
from models.checkpoints.adapter import read_adapter
from models.checkpoints.describe import described
from models.checkpoints.devices import DType, arithmetic, device_named, dtype_named, type_name
from models.checkpoints.memory import Needs, needs_of
from models.errors import CheckpointError, UnsupportedConfig
from models.files import in_a_line
from models.float8 import KIND
from models.interface import ModelInfo


def check_computes(
    network: DenoiserModule, kind: torch.dtype, device: torch.device, ranks: int = 1
) -> None:
    """Refuse weights of a type that a network, or a part of it in one of ``ranks`` processes,
    cannot compute with on a device.

    Raises:
        CheckpointError: float8, int8, or bfloat16 on a CPU without instructions for it, for a
            network that does not take weights of that type, or for a part of one.
    """
    takes = network.narrows if kind == KIND else network.widens
    if arithmetic(kind, device) != kind and (ranks > 1 or not takes):
        which = "a network in several processes" if ranks > 1 else "this kind of network"
        where = " on a CPU without instructions for it" if kind == torch.bfloat16 else ""
        raise CheckpointError(
            f"dtype is {type_name(kind)!r}: not for {which}{where}; it can be 'float32'"
        )


class Inspected(NamedTuple):
    """A checkpoint by its files' headers.

    Attributes:
        info: facts of the model.
        defaults: of its sampling parameters.
        needs: sizes that decide about memory.
        quantisation: how weights are stored in fp8, in words; empty where none are.
    """

    info: ModelInfo
    defaults: dict[str, Any]
    needs: Needs
    quantisation: str = ""


def inspect_whole(path: Path) -> Inspected:
    """Facts, defaults and sizes of a checkpoint folder, by its files' headers; no weights are read.

    Raises:
        CheckpointError: as ``load``, but for the values of the weights.
    """
    with in_a_line(path):
        read = described(path)
    info = replace(read.info, dtype=weights.stored_dtype(read.found))
    needs = needs_of(read.built.network, info.vocab_size)
    return Inspected(info, read.defaults, needs, read.quantisation)


def inspect_checkpoint(path: Path) -> tuple[ModelInfo, dict[str, Any]]:
    """Facts and defaults of a checkpoint folder: see ``inspect_whole``."""
    return inspect_whole(path)[:2]


def check_checkpoint(
    path: Path,
    device: str = "cpu",
    dtype: DType = "auto",
    ranks: int = 1,
    adapter: Path | None = None,
) -> Inspected:
    """Refuse early what ``load_checkpoint`` and ``load_divided_checkpoint`` refuse by a folder's
    files' headers.

    Returns:
        Facts, with the type that the weights will have.

    Raises:
        CheckpointError: as ``load_checkpoint``, but for the values of the weights.
    """
    where = device_named(device)
    read = described(path)
    kind = dtype_named(dtype, where, read.info.parameters)
    built = read.built
    check_computes(built.network, kind, where, ranks)
    if adapter is not None:
        read_adapter(adapter, built.network)
    if ranks > 1:
        from models.parallel.tensor_parallel import check

        try:
            check(built.spec, built.config, ranks)
        except UnsupportedConfig as error:
            raise CheckpointError(f"{path}: {error}") from None
    info = replace(read.info, dtype=type_name(kind))
    needs = needs_of(built.network, info.vocab_size)
    return Inspected(info, read.defaults, needs, read.quantisation)
