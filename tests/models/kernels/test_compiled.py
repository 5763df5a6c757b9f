"""Kernels compiled for compute capability 9.0, as they are launched, on a machine without a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.kernels import choice
from models.kernels.choice import Draw
from tests.support import kernels
from tests.support.kernels import Launches

triton = pytest.importorskip("triton", reason="Triton is not installed")
KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
REGISTERS, SHARED = 128, 48 * 1024
"""The most of a thread, and of a program in bytes: 512 threads fit a multiprocessor then."""


class Unread(Draw):
    """Gives tensors without values, as only their types and sizes are looked at."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(torch.device("meta"), dtype)


def launches(dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Each different launch of the cases, with a kernel's name: arguments and options."""
    cases = kernels.norms() | kernels.ropes() | kernels.gates() | kernels.modulations(dtype)
    recorded = Launches()
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(choice, "programs", lambda: recorded)
        for compare in cases.values():
            list(compare(Unread(dtype)))
    found = zip(recorded.names, recorded.calls, strict=True)
    return [(name, args, options) for name, (_, args, options) in found]


def compiled(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A launch with aligned tensors as Triton compiles it for a Hopper GPU."""
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    from models.kernels import programs

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


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_kernels_compile_without_spills(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    seen = set()
    for name, args, options in launches(dtype):
        facts = [x if isinstance(x, int) else getattr(x, "dtype", None) for x in args]
        key = (name, *map(str, facts), *map(str, options.items()))
        if key in seen:
            continue
        seen.add(key)
        built = compiled(name, args, options)
        binary = tmp_path / "kernel.cubin"
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
        assert "fma.rn.f32" not in built.asm["ptx"], about  # would round otherwise than PyTorch
    assert {name for name, *_ in seen} == {"add_norm", "rope", "swiglu", "add_modulate"}
