"""Which operations run as Triton kernels: on CUDA devices, each one that agrees with PyTorch there.

Before a kernel is first used for a type and sizes it is compiled, run on some random rows and
compared with the operations of PyTorch that it replaces. If that fails, or an entry is further away
than ``RELATIVE`` and ``ABSOLUTE`` allow, a warning is logged once and PyTorch's operations run
instead. While gradients are recorded they always do: kernels have none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Set
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

DEVICES = frozenset({"cuda"})
"""Types of devices that kernels run on."""
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float64: 1e-5}
"""Deviation that an entry may have, relative to itself; whole numbers are the same. In bfloat16
that is two units in the last place: a sum in another order may tip two roundings. In float32 it is
some tens of them, for the approximate roots and exponentials of devices; numbers in float64 follow
from such."""
OF_NETWORKS = frozenset({torch.float32, torch.bfloat16})
"""Types of hidden states and logits that kernels take."""
ABSOLUTE = 1e-5
"""May be added to it, for entries that cancel; inputs are of unit size."""
ROWS = 5
"""Of random input."""

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Results of a kernel, each beside that of PyTorch."""
_agree: dict[tuple[Hashable, ...], bool] = {}
_off: list[bool] = []
_warned: set[str] = set()


class Draw:
    """Random numbers for a comparison, always the same.

    Attributes:
        device: where they are.
        dtype: the type under test.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers of a size, of the type under test if no other is named."""
        drawn = torch.randn(size, generator=self._generator)
        return drawn.to(self.device, dtype or self.dtype)


@cache
def programs() -> ModuleType | None:
    """The kernels, compiled when they are first launched; None without Triton."""
    try:
        from fusion import programs as found
    except Exception as error:  # not installed, or not for this machine
        _warn("Triton", f"it cannot be imported: {error}")
        return None
    return found


def possible(like: Tensor, types: Set[torch.dtype] = OF_NETWORKS) -> bool:
    """Whether kernels that take these types may take tensors like one at all."""
    return (
        not _off
        and like.device.type in DEVICES
        and not torch.is_grad_enabled()
        and like.dtype in types
        and programs() is not None
    )


@contextmanager
def operations_of_pytorch() -> Iterator[None]:
    """No kernel is used inside, to compare both."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


def decisions() -> dict[tuple[Hashable, ...], bool]:
    """Whether each kernel that has been asked for is used: by its name, device, type and sizes."""
    return dict(_agree)


def ordinary(*tensors: Tensor) -> bool:
    """Whether tensors lie in memory as they are: not those of subclasses, such as results that
    other ranks are still summing.
    """
    return all(type(each) in (Tensor, nn.Parameter) for each in tensors)


def agrees(
    kernel: str,
    like: Tensor,
    sizes: tuple[Hashable, ...],
    compare: Callable[[Draw], Pairs],
    types: Set[torch.dtype] = OF_NETWORKS,
) -> bool:
    """Whether a kernel may be used, found out when it is first asked for.

    Args:
        kernel: its name in ``fusion.programs``.
        like: of the device and the type that it is for.
        sizes: the other facts that it is compiled for.
        compare: runs the kernel and PyTorch's operations on numbers that it draws.
        types: that it takes.

    Raises:
        torch.OutOfMemoryError: the device has no room for a few rows; the next call asks again.
    """
    if not possible(like, types):
        return False
    key = (kernel, like.device, like.dtype, *sizes)
    if key not in _agree:
        if like.is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # a comparison waits for the device, which a graph cannot hold
        _agree[key] = _compared(kernel, like, compare)
    return _agree[key]


def _compared(kernel: str, like: Tensor, compare: Callable[[Draw], Pairs]) -> bool:
    """Compare a kernel with PyTorch's operations; a failure is logged."""
    try:
        away = [_excess(*pair) for pair in compare(Draw(like.device, like.dtype))]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a compiler, a driver or a launch: no list of them is known
        reason = f"{type(error).__name__}: {error}"
    else:
        if all(excess <= 1 for excess in away):  # not so for NaN
            return True
        reason = f"results are {max(away):.3g} times as far away as they may be"
    _warn(kernel, f"on {like.device} in {like.dtype}: {reason}")
    return False


def _excess(found: Tensor, expected: Tensor) -> float:
    """The greatest deviation of an entry, in units of that allowed."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return torch.inf
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, expected) else torch.inf
    allowed = expected.double().abs() * RELATIVE[found.dtype] + ABSOLUTE
    return float(((found.double() - expected.double()).abs() / allowed).max())


def _warn(kernel: str, reason: str) -> None:
    """Say once that a kernel is not used."""
    if kernel not in _warned:
        _warned.add(kernel)
        logging.getLogger(__name__).warning(
            "kernel %s is not used, operations of PyTorch are: %s", kernel, reason
        )


def launch(
    kernel: str, grid: tuple[int, ...], device: torch.device, *args: Any, **options: Any
) -> None:
    """Run a kernel.

    Args:
        kernel: its name in ``fusion.programs``.
        grid: how many programs along each axis.
        device: of its tensors.
        args: tensors and numbers.
        options: constants that it is compiled for, and Triton's options.
    """
    runner = getattr(programs(), kernel)[grid]
    # products and sums are rounded one by one, as PyTorch's operations round them
    options = {"enable_fp_fusion": False} | options
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # Triton launches on the current one
            runner(*args, **options)
    else:
        runner(*args, **options)


def power_of_two(size: int) -> int:
    """The least power of two that is not below a size."""
    return 1 << (size - 1).bit_length()


def warps(entries: int) -> int:
    """Warps of a program: a thread has 16 entries of a row, one warp at least and 16 at most."""
    return min(16, max(1, entries // 512))
