"""Kernels in tests: sizes that they are run with, and stand-ins without Triton or CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusion import choice
from fusion.choice import Draw, Pairs
from models.kernels import gate, modulate, norm, rope

Compare = Callable[[Draw], Pairs]


def norms() -> dict[str, Compare]:
    """Residual and RMSNorm: ``stories`` is 288 wide, LLaDA-8B 4,096, Dream-7B 3,584; and the
    widest that a program takes.
    """
    widths = (1, 48, 288, 3584, 4096, norm.WIDEST)
    sizes = [(size, adds) for size in widths for adds in (True, False)]
    return {f"norm-{s}-{a}": partial(norm._compare, s, a, 1e-5) for s, a in sizes}


def ropes() -> dict[str, Compare]:
    """Heads of ``stories``, LLaDA-8B, Dream-7B, and of LLaDA2.0, of which half is rotated; small
    ones of odd numbers.
    """
    sizes = [(6, 6, 48, 24), (32, 32, 128, 64), (28, 4, 128, 64), (16, 4, 128, 32), (5, 1, 10, 3)]
    eps = (None, 1e-6)
    return {f"rope-{s}-{e}": partial(rope._compare, *s, e) for s in sizes for e in eps}


def gates() -> dict[str, Compare]:
    """SwiGLU: rows shorter than a program, as long, and longer."""
    return {f"gate-{size}": partial(gate._compare, size) for size in (3, 768, 1024, 12288)}


def modulations(dtype: torch.dtype) -> dict[str, Compare]:
    """Norms of a DiT, whose blocks have a type: with one condition, and with one for each row; the
    widest that a program takes.
    """
    return {
        f"modulate-{size}-{kind}-{dims}": partial(modulate._compare, size, kind, dims, dtype)
        for size in (144, 768, 1024, modulate.WIDEST)
        for kind in (None, dtype)
        for dims in (1, 2)
    }


class Launches:
    """Stands in for ``fusion.programs``.

    Attributes:
        names: of the kernels that were launched.
        calls: grid, arguments and options of each.
    """

    def __init__(self, run: Callable[..., None] = lambda name, *args, **options: None) -> None:
        """``run`` is called with the name of a kernel, its arguments and options."""
        self.names: list[str] = []
        self.calls: list[tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = []
        self._run = run

    def __getattr__(self, name: str) -> Launchable:
        return Launchable(self, name)

    def launched(
        self, name: str, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self.names.append(name)
        self.calls.append((grid, args, options))
        self._run(name, *args, **options)


class Launchable:
    """A kernel of ``Launches``, to be indexed by a grid and called."""

    def __init__(self, of: Launches, name: str) -> None:
        self._of, self._name = of, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self._of.launched(self._name, grid, args, options)


def on_cpu(monkeypatch: pytest.MonkeyPatch, programs: Any = None) -> None:
    """Have kernels run on the CPU, none compared as yet: those of ``programs``, or Triton's."""
    monkeypatch.setattr(choice, "DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(choice, "_agree", {})
    monkeypatch.setattr(choice, "_warned", set())
    if programs is not None:
        monkeypatch.setattr(choice, "programs", lambda: programs)


FREE = {"empty", "empty_like", "new_empty"}
"""Operations that launch nothing, beside views."""


class Operations(TorchDispatchMode):
    """Counts the operations of PyTorch that are kernels on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name not in FREE and not func.is_view and not name.startswith("_unsafe_view"):
            self.names[name] += 1
        return out
