"""Where the weights go, and in which type."""

from __future__ import annotations

import re
from typing import Literal

import torch

from models.errors import CheckpointError

DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"
DType = Literal["auto", "float32", "bfloat16", "int8"]
DTYPE_WORDS = "auto, float32, bfloat16 or, on a CPU, int8"


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


def dtype_named(name: DType, device: torch.device) -> torch.dtype:
    """The type of the weights; ``auto`` is float32 on a CPU and bfloat16 on CUDA.

    Raises:
        CheckpointError: int8 on CUDA.
    """
    if name == "int8":
        if device.type != "cpu":
            raise CheckpointError(f"dtype is 'int8': it is for CPUs, device is {str(device)!r}")
        return torch.int8
    if name == "float32" or (name == "auto" and device.type == "cpu"):
        return torch.float32
    return torch.bfloat16


def type_name(kind: torch.dtype) -> str:
    """As settings name it: ``float32``."""
    return str(kind).removeprefix("torch.")


def arithmetic(kind: torch.dtype, device: torch.device) -> torch.dtype:
    """The type that a device computes in with weights of a type: float32 for int8, and where a CPU
    has no instructions for bfloat16.
    """
    if kind == torch.int8 or (device.type == "cpu" and not cpu_has_fast_bfloat16()):
        return torch.float32
    return kind


def cpu_has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
