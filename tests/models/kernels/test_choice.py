"""The choice between a kernel and PyTorch's operations, without Triton and without a GPU."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from fusion import choice
from models.base import RMSNorm
from models.kernels.gate import swiglu
from models.kernels.modulate import add_modulate
from models.kernels.norm import add_norm
from models.kernels.rope import rotated
from tests.support.kernels import Launches, on_cpu

ROWS, SIZE = 7, 48


def faithful(name: str, h: Tensor, x: Tensor, weight: Tensor, out: Tensor, *_: Any, **__: Any):
    """A kernel ``add_norm`` made of other operations than the lines that it replaces."""
    assert name == "add_norm"
    h.add_(x)
    out.copy_(torch.nn.functional.rms_norm(h, weight.shape, weight, 1e-5))


def wrong(*args: Any, **options: Any) -> None:
    """The same, with an entry that is a little off."""
    faithful(*args, **options)
    args[4][2, 3] *= 1.001


def unwritten(*args: Any, **options: Any) -> None:
    """The same, with an entry that is not a number."""
    faithful(*args, **options)
    args[4][-1, -1] = torch.nan


def broken(*args: Any, **options: Any) -> None:
    raise RuntimeError("no C compiler was found")


class Pending(Tensor):
    """Stands for a result that ranks are still summing."""


def inputs() -> tuple[Tensor, Tensor, RMSNorm]:
    g = torch.Generator().manual_seed(3)
    norm = RMSNorm(SIZE, 1e-5).requires_grad_(False)
    norm.weight.copy_(torch.randn(SIZE, generator=g))
    return torch.randn(ROWS, SIZE, generator=g), torch.randn(ROWS, SIZE, generator=g), norm


def run(norm_inputs: tuple[Tensor, Tensor, RMSNorm]) -> tuple[Tensor, Tensor]:
    h, x, norm = norm_inputs
    with torch.inference_mode():
        return add_norm(h.clone(), x, norm)


def test_cpu_runs_the_operations_of_torch(monkeypatch):
    stub = Launches()
    monkeypatch.setattr(choice, "programs", lambda: stub)
    h, x, norm = inputs()
    q, angle = h.view(ROWS, 6, 8), torch.ones(ROWS, 1, 4)
    with torch.inference_mode():
        add_norm(h, x, norm)
        rotated(q, q, angle, angle)
        swiglu(h, x)
        add_modulate(h, (x, h[0]), h[0], x[0], torch.float32)
    assert not stub.names


def test_agreeing_kernel_is_compared_once_and_used(monkeypatch, caplog):
    stub = Launches(faithful)
    given = inputs()
    expected = run(given)
    on_cpu(monkeypatch, stub)
    for _ in range(3):
        found = run(given)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert stub.names == ["add_norm"] * 4  # one of them to compare
    assert not caplog.records


@pytest.mark.parametrize(
    ("kernel", "words"),
    [(wrong, "times as far away"), (unwritten, "times as far away"), (broken, "C compiler")],
)
def test_failing_kernel_is_logged_once_and_not_used(monkeypatch, caplog, kernel, words):
    given = inputs()
    expected = run(given)
    stub = Launches(kernel)
    on_cpu(monkeypatch, stub)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert all(map(torch.equal, run(given), expected))
    (record,) = caplog.records
    assert words in record.getMessage() and "add_norm is not used" in record.getMessage()
    assert stub.names == ["add_norm"]


def test_other_sizes_are_compared_on_their_own(monkeypatch):
    stub = Launches(faithful)
    on_cpu(monkeypatch, stub)
    run(inputs())
    with torch.inference_mode():
        add_norm(torch.zeros(2, 16), torch.zeros(2, 16), RMSNorm(16, 1e-5))
    assert len(stub.names) == 4


def test_gradients_need_the_operations_of_torch(monkeypatch):
    stub = Launches(broken)
    on_cpu(monkeypatch, stub)
    h, x, norm = inputs()
    total, y = add_norm(h.requires_grad_(), x, norm)
    (total.sum() + y.sum()).backward()
    assert h.grad is not None and not stub.names


def test_unsuitable_tensors_need_the_operations_of_torch(monkeypatch):
    stub = Launches(broken)
    on_cpu(monkeypatch, stub)
    h, x, norm = inputs()
    half = torch.ones(ROWS, 1, 4)
    with torch.inference_mode():
        add_norm(h.double(), x.double(), norm.double())
        add_norm(h.T, x.T, RMSNorm(ROWS, 1e-5))
        add_norm(h.bfloat16(), x.bfloat16(), norm.float())
        rotated(h.view(ROWS, 8, 6).mT, h.view(ROWS, 6, 8), half, half)
        rotated(h.view(ROWS, 6, 8), h.view(ROWS, 6, 8), half, half.bfloat16())
        swiglu(h.T, x.T)
        add_norm(h, x.as_subclass(Pending), norm.float())
    assert not stub.names


def test_memory_that_runs_out_decides_nothing(monkeypatch, caplog):
    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    on_cpu(monkeypatch, Launches(full))
    with pytest.raises(torch.OutOfMemoryError):
        run(inputs())
    stub = Launches(faithful)
    monkeypatch.setattr(choice, "programs", lambda: stub)
    run(inputs())
    assert len(stub.names) == 2 and not caplog.records


def test_without_triton_a_warning_is_logged(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "fusion.programs", raising=False)
    monkeypatch.delattr("fusion.programs", raising=False)
    monkeypatch.setattr(choice, "_warned", set())
    with caplog.at_level(logging.WARNING):
        assert choice.programs.__wrapped__() is None
    assert "Triton is not used" in caplog.text


def test_sizes_of_programs():
    assert [choice.power_of_two(n) for n in (1, 2, 3, 48, 64, 65)] == [1, 2, 4, 64, 64, 128]
    assert [choice.warps(n) for n in (1, 512, 4096, 1 << 14)] == [1, 1, 8, 16]
