"""A device beside the CPU, made of tensors that lie on it: copies and questions are counted."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""Its name: PyTorch then takes it for another device than the CPU."""
aten = torch.ops.aten
QUESTIONS = {
    *(aten.nonzero, aten.masked_select, aten.bincount, aten._local_scalar_dense, aten.equal),
    *(aten.is_nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive),
    *(aten.item, aten.argwhere, aten.nonzero_numpy, aten.allclose),
}
"""Operations whose result, or its shape, the host has to wait for. Some are made of others, and are
seen as a whole in inference mode.
"""


class Remote(Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        """``held``: its numbers."""
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of SecondDevice")


class SecondDevice(TorchDispatchMode):
    """The device works while this is entered.

    Attributes:
        waits: how often the host waited for it.
        copies: how often it was sent something.
    """

    SENT: ClassVar = {aten._to_copy, aten.to, aten.copy_}

    def __init__(self) -> None:
        super().__init__()
        self.waits = self.copies = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; PyTorch's guard would take a fifth of the time."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, read = dict(kwargs or {}), []
        to_it = kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE
        if Remote not in types and not to_it:
            return func(*args, **kwargs)
        held_args, held_kwargs = _held(args, read), {k: _held(v, read) for k, v in kwargs.items()}
        remote = [isinstance(t, Remote) for t in read]
        leaves = kwargs.get("device") is not None and not to_it
        packet = func.overloadpacket
        here = to_it or (any(remote) and not leaves)
        if packet in self.SENT:
            if packet is aten.copy_:
                here = remote[0]
            self.copies += here and not remote[-1]
            self.waits += not here and remote[-1]
        else:
            strangers = [t for t, r in zip(read, remote, strict=True) if not r and t.dim()]
            assert not (strangers and any(remote)), f"{func} mixes devices"
            assert not leaves, f"{func} leaves the device"
            self.waits += packet in QUESTIONS or self._counts(func, args, kwargs)
        if to_it:
            held_kwargs["device"] = "cpu"
        out = func(*held_args, **held_kwargs)
        if func._schema.is_mutable:
            return kwargs.get("out", args[0])
        return _wrapped(out) if here else out

    @staticmethod
    def _counts(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the numbers in a tensor decide the shape of the result."""
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            return any(i is not None and i.dtype == torch.bool for i in args[1])
        if func is aten.repeat_interleave.self_Tensor:
            return kwargs.get("output_size") is None
        return func in (aten.repeat_interleave.Tensor, aten.where.default)


def _held(tree: Any, read: list[Tensor]) -> Any:
    """The same with the numbers of the device's tensors; all tensors are noted in ``read``."""
    if isinstance(tree, Tensor):
        read.append(tree)
        return tree.held if isinstance(tree, Remote) else tree
    if type(tree) in (list, tuple):
        return type(tree)(_held(branch, read) for branch in tree)
    return tree


def _wrapped(tree: Any) -> Any:
    """The same as tensors of the device."""
    if isinstance(tree, Tensor):
        return Remote(tree)
    return type(tree)(map(_wrapped, tree)) if isinstance(tree, list | tuple) else tree
