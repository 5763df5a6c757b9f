"""Kernels of layers compiled for compute capability 9.0, on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.support import compiled, kernels

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_compile_without_spills(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    cases = kernels.norms() | kernels.ropes() | kernels.gates() | kernels.modulations(dtype)
    seen = compiled.check(cases.values(), dtype, tmp_path)
    assert seen == {"add_norm", "rope", "swiglu", "add_modulate"}
