"""Kernels compiled for compute capability 9.0, as they are launched, on a machine without a GPU."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fusion import choice
from fusion.choice import Draw
from tests.support.kernels import Compare, Launches

KINDS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
REGISTERS, SHARED = 128, 48 * 1024
"""The most of a thread, and of a program in bytes: 512 threads fit a multiprocessor then."""

Launch = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A kernel's name, arguments and options."""


class Unread(Draw):
    """Gives tensors without values, as only their types and sizes are looked at."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(torch.device("meta"), dtype)


def launches(cases: Iterable[Compare], dtype: torch.dtype) -> Iterator[Launch]:
    """Each different launch of some cases."""
    recorded = Launches()
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(choice, "programs", lambda: recorded)
        for compare in cases:
            list(compare(Unread(dtype)))
    seen = set()
    for name, (_, args, options) in zip(recorded.names, recorded.calls, strict=True):
        facts = [x if isinstance(x, int) else getattr(x, "dtype", None) for x in args]
        key = (name, *map(str, facts), *map(str, options.items()))
        if key not in seen:
            seen.add(key)
            yield name, args, options


def compiled(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A launch with aligned tensors as Triton compiles it for a Hopper GPU."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    from fusion import programs

    kernel, options = getattr(programs, name), dict(options)
    names = kernel.arg_names
    signature, aligned = {}, {}
    for i, (argument, value) in enumerate(zip(names, args, strict=False)):
        if isinstance(value, Tensor):
            signature[argument] = KINDS[value.dtype]
        else:
            signature[argument] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[(i,)] = [["tt.divisibility", 16]]
    constants = {}
    for i, argument in enumerate(names[len(args) :], len(args)):
        signature[argument], constants[(i,)] = "constexpr", options.pop(argument)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def check(cases: Iterable[Compare], dtype: torch.dtype, folder: Path) -> set[str]:
    """Compile every different launch of some cases: without spills, within ``REGISTERS`` and
    ``SHARED``, and without fused products and sums, which PyTorch would round otherwise.

    Returns:
        names of the kernels.
    """
    tool = Path(import_module("triton.backends").__path__[0]) / "nvidia" / "bin" / "cuobjdump"
    binary, seen = folder / "kernel.cubin", set()
    for name, args, options in launches(cases, dtype):
        built = compiled(name, args, options)
        binary.write_bytes(built.asm["cubin"])
        said = subprocess.run(
            [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
        used = {k: int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}
        about = f"{name} {options}: {used}, {built.metadata.shared} bytes shared"
        print(about)
        assert used["STACK"] == used["LOCAL"] == 0, about
        assert used["REG"] <= REGISTERS, about
        assert max(used["SHARED"], built.metadata.shared) <= SHARED, about
        assert "fma.rn.f32" not in built.asm["ptx"], about
        seen.add(name)
    return seen
