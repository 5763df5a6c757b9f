"""Where the weights go, and in which type."""

from __future__ import annotations

import re
from typing import Literal

import torch

from models import cpu
from models.errors import CheckpointError
from models.float8 import CAPABILITY
from models.float8 import KIND as FLOAT8

DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"
DType = Literal["auto", "float32", "bfloat16", "float8", "int8"]
LARGE = 1 << 28
"""Parameters of a network whose weights would take a GiB in float32. There bfloat16 saves memory
and most of the time of a step; below, a seed keeps its tokens in any company.
"""
DTYPE_WORDS = "auto, float32, bfloat16, float8 or, on a CPU, int8"


def device_named(name: str) -> torch.device:
    """The device ``cpu``, ``cuda`` or ``cuda:N``, made ready to compute as exactly as a CPU;
    ``auto`` is CUDA where there is a device of it, else the CPU.

    Raises:
        CheckpointError: there is none of that name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICE.fullmatch(name):
        raise CheckpointError(f"device is {name!r}; it must be {DEVICE_WORDS}")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device is {name!r}, and no CUDA device is available")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise CheckpointError(f"device is {name!r}; there are cuda:0 to cuda:{count - 1}")
    if device.type == "cuda":  # fp32 means fp32, in convolutions too
        torch.backends.cudnn.allow_tf32 = False
    return device


def dtype_named(name: DType, device: torch.device, parameters: int) -> torch.dtype:
    """The type of the weights of a network with so many parameters; ``auto`` is bfloat16 on CUDA,
    and on a CPU with instructions for it from ``LARGE`` parameters on; else float32.

    Raises:
        CheckpointError: int8 on CUDA, or float8 on a CUDA device that cannot multiply it.
    """
    if name == "float8":
        if device.type == "cuda" and (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
            raise CheckpointError(
                f"dtype is 'float8': it needs a device of compute capability 8.9 or later, "
                f"{str(device)!r} has {has[0]}.{has[1]}"
            )
        return FLOAT8
    if name == "int8":
        if device.type != "cpu":
            raise CheckpointError(f"dtype is 'int8': it is for CPUs, device is {str(device)!r}")
        return torch.int8
    if name == "auto" and device.type == "cpu":
        name = "bfloat16" if parameters >= LARGE and cpu.has_fast_bfloat16() else "float32"
    return torch.float32 if name == "float32" else torch.bfloat16


def type_name(kind: torch.dtype) -> str:
    """As settings name it: ``float32``."""
    return "float8" if kind == FLOAT8 else str(kind).removeprefix("torch.")


def type_called(name: str) -> torch.dtype:
    """The type of a ``type_name``."""
    return FLOAT8 if name == "float8" else getattr(torch, name)


def arithmetic(kind: torch.dtype, device: torch.device) -> torch.dtype:
    """The type that a device computes in with weights of a type: bfloat16 for float8, float32 for
    int8 and where a CPU has no instructions for bfloat16.
    """
    if kind == FLOAT8:
        return torch.bfloat16
    if kind == torch.int8 or (device.type == "cpu" and not cpu.has_fast_bfloat16()):
        return torch.float32
    return kind
