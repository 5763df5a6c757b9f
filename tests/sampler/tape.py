"""A recording of tensor operations that can be run again on the same memory, as a CUDA graph is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors in arguments or results of an operation."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [tensor for branch in tree for tensor in _tensors(branch)]
    return _tensors([*tree.values()]) if isinstance(tree, dict) else []


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Tape(TorchDispatchMode):
    """Records while it is entered. All that Python decided then is fixed: a replay repeats the same
    operations with the same arguments, into the tensors that they made.

    Attributes:
        foreign: tensors that were read though they are neither registered nor made on the tape.
    """

    def __init__(self, registered: list[Tensor]) -> None:
        super().__init__()
        self.foreign: list[tuple[str, Tensor]] = []
        self._known = {_memory(t) for t in registered}
        self._ops: list[tuple[Any, tuple, dict, Any]] = []
        self._alive: list[Any] = [registered]  # memory is not used twice while it is recorded

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; PyTorch's guard would take a fifth of the time."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read = _tensors((args, kwargs))
        self.foreign += [(str(func), t) for t in read if _memory(t) not in self._known]
        out = func(*args, **kwargs)
        made = _tensors(out)
        self._alive.append((read, made))
        before = {_memory(t) for t in read}
        self._known |= {_memory(t) for t in made}
        if func._schema.is_mutable or any(_memory(t) not in before for t in made):
            self._ops.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        """Run the operations again."""
        with torch.inference_mode():
            for func, args, kwargs, out in self._ops:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if _memory(old) != _memory(new):
                        old.copy_(new)


class TapeRecorder:
    """Records steps as ``sampler.graphs.CudaRecorder`` does, on a CPU.

    Attributes:
        foreign: of each recording, the memory that it read though it had not made it.
    """

    def __init__(self) -> None:
        self.foreign: list[set[int]] = []

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        with Tape([]) as tape:
            result = work()
        self.foreign.append({_memory(t) for _, t in tape.foreign})
        return tape.replay, result


def memory_of(*tensors: Tensor) -> set[int]:
    """Names of the memory of some tensors, as in ``TapeRecorder.foreign``."""
    return {_memory(t) for t in tensors}
