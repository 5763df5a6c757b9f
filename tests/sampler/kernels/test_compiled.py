"""Kernels of the sampler compiled for compute capability 9.0, on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.sampler.kernels import cases
from tests.support import compiled

triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reading_compiles_without_spills(tmp_path, monkeypatch, dtype):
    """Every question at LLaDA's vocabulary; some at those of other published networks, of
    ``stories``, whose rows are not aligned, and at one of a single block.
    """
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    some = ("topk", "uniform noise", "everything")
    others = cases.reads((*cases.PUBLISHED[1:], 4454, 100))
    reads = cases.reads(cases.PUBLISHED[:1])
    reads |= {name: case for name, case in others.items() if name.rpartition("-")[2] in some}
    assert compiled.check(reads.values(), dtype, tmp_path) == {"read_rows"}


def test_the_others_compile_without_spills(tmp_path, monkeypatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    for name, (compare, dtype) in cases.others().items():
        (found,) = compiled.check([compare], dtype, tmp_path)
        assert name.startswith(found)
