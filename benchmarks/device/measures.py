"""Times, kernels and memory of some work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of some work, the device's share included."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def peak_mib(work: Callable[[], object], device: str) -> tuple[float, float | None]:
    """(seconds, peak memory of the device in MiB) of some work; no memory on a CPU."""
    if device == "cpu":
        return seconds(work, device), None
    torch.cuda.reset_peak_memory_stats()
    taken = seconds(work, device)
    return taken, torch.cuda.max_memory_allocated() / 2**20


def copy_rate(device: str, size: int) -> float:
    """Bytes a second that the device reads and writes when it copies ``size`` bytes."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    seconds(lambda: target.copy_(source), device)
    return 10 * 2 * size / seconds(lambda: [target.copy_(source) for _ in range(10)], device)


def matrix_rate(device: str, size: int = 8192) -> float:
    """FLOP/s of a large bf16 product on random data."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds(lambda: [a @ b for _ in range(3)], device)
    return 10 * 2 * size**3 / seconds(lambda: [a @ b for _ in range(10)], device)


class Profile(NamedTuple):
    """One step by PyTorch's profiler.

    Attributes:
        kernels: launched; on a CPU, operations dispatched.
        busy_ms: milliseconds of the device; None on a CPU.
        syncs: calls that wait for the device.
        wall_ms: milliseconds, the profiler's own cost included.
        top: the longest kernels with their milliseconds.
    """

    kernels: float
    busy_ms: float | None
    syncs: float
    wall_ms: float
    top: str


class _Operations(TorchDispatchMode):
    """Counts dispatched operations; ``.item()`` and its like are counted as waits too."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.all += 1
        name = str(func)
        self.waits += "_local_scalar_dense" in name or "nonzero" in name
        return func(*args, **(kwargs or {}))


def profiled(step: Callable[[], object], device: str, steps: int = 4) -> Profile:
    """Profile a step; means over ``steps`` of them."""
    if device == "cpu":
        with _Operations():
            step()  # the first one under a mode imports modules
        with _Operations() as found:
            taken = seconds(lambda: [step() for _ in range(steps)], device)
        wall = 1e3 * taken / steps
        return Profile(found.all / steps, None, found.waits / steps, wall, "")
    synchronise(device)
    began = time.perf_counter()
    with torch.profiler.profile() as profiler:
        for _ in range(steps):
            step()
        synchronise(device)
    wall = 1e3 * (time.perf_counter() - began) / steps
    events = profiler.key_averages()
    on_device = [e for e in events if e.device_type == DeviceType.CUDA]
    syncs = sum(e.count for e in events if e.key in SYNCHRONISING) - 1  # the one at the end
    longest = sorted(on_device, key=lambda e: -e.self_device_time_total)[:6]
    return Profile(
        kernels=sum(e.count for e in on_device) / steps,
        busy_ms=sum(e.self_device_time_total for e in on_device) / steps / 1e3,
        syncs=syncs / steps,
        wall_ms=wall,
        top=", ".join(
            f"{e.key[:32]} {e.self_device_time_total / steps / 1e3:.2f}" for e in longest
        ),
    )
