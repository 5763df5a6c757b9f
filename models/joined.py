"""Linear layers of one input as one, with their weights in one storage, for CUDA devices.

There a product of few rows takes as long as its launch, and a wide one of many rows runs at a
higher rate. The layers stay, and their weights are parts of the joint ones: tensors have the names
of files, and no memory is taken twice. To be used once a network is where it stays: moved to
another device, parts and whole become copies of their own. Layers that are divided among ranks,
packed, widened or in int8 are left as they are. Only for inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.float8 import Float8Linear, multiplied


class Joined(nn.Module):
    """Several linear layers of the same kind, each of which becomes a part of it.

    Attributes:
        sizes: outputs of each.
        bias: of all; None where they have none.
    """

    bias: Tensor | None

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = [len(rows) for rows in self.rows_of(layers)]
        biases: list[Any] = [layer.bias for layer in layers]
        found = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        self.register_buffer("bias", found, persistent=False)
        if found is not None:
            for layer, own in zip(layers, found.split(self.sizes), strict=True):
                kept = isinstance(layer, nn.Linear)
                layer.bias = nn.Parameter(own, requires_grad=False) if kept else own

    @staticmethod
    def rows_of(layers: Sequence[Any]) -> list[Tensor]:
        """The matrix [N, K] of each layer."""
        raise NotImplementedError

    def product(self, y: Tensor) -> Tensor:
        """[T, K] -> the outputs of all layers, [T, sum of N]."""
        raise NotImplementedError

    def forward(self, y: Tensor) -> tuple[Tensor, ...]:
        """[T, K] -> the output of each layer, [T, N]; they are parts of the rows of one tensor."""
        return self.product(y).split(self.sizes, -1)


class JoinedLinear(Joined):
    """``nn.Linear`` layers as one.

    Attributes:
        weight: [sum of N, K].
    """

    weight: Tensor

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__(layers)
        whole = torch.cat(self.rows_of(layers))
        self.register_buffer("weight", whole, persistent=False)
        for layer, rows in zip(layers, whole.split(self.sizes), strict=True):
            layer.weight = nn.Parameter(rows, requires_grad=False)

    @staticmethod
    def rows_of(layers: Sequence[Any]) -> list[Tensor]:
        """See ``Joined``."""
        return [layer.weight.detach() for layer in layers]

    def product(self, y: Tensor) -> Tensor:
        """See ``Joined``."""
        return F.linear(y, self.weight, self.bias)


class JoinedFloat8(Joined):
    """``Float8Linear`` layers as one: each row of a matrix keeps its scale.

    Attributes:
        entries, scale: as of ``Float8Linear``, of all rows.
    """

    entries: Tensor
    scale: Tensor

    def __init__(self, layers: Sequence[Float8Linear]) -> None:
        super().__init__(layers)
        self.register_buffer("entries", torch.cat(self.rows_of(layers)), persistent=False)
        scales = torch.cat([layer.scale for layer in layers], 1)
        self.register_buffer("scale", scales, persistent=False)
        parts = (self.entries.split(self.sizes), self.scale.split(self.sizes, 1))
        for layer, entries, scale in zip(layers, *parts, strict=True):
            layer.entries, layer.scale = entries, scale

    @staticmethod
    def rows_of(layers: Sequence[Any]) -> list[Tensor]:
        """See ``Joined``."""
        return [layer.entries for layer in layers]

    def product(self, y: Tensor) -> Tensor:
        """See ``Joined``."""
        return multiplied(y, self.entries, self.scale, self.bias)


Groups = Mapping[str, tuple[str, ...]]
"""Names of layers that take the same input, by the name of the module that they are joined in."""
KINDS: dict[type[nn.Module], type[Joined]] = {nn.Linear: JoinedLinear, Float8Linear: JoinedFloat8}


def products(y: Tensor, joined: Joined | None, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Outputs [T, N] of layers for one input [T, K]: of the one that they are joined in, if there
    is one.
    """
    return tuple(layer(y) for layer in layers) if joined is None else joined(y)


def join(network: nn.Module) -> None:
    """Join the layers that the modules of a network name in ``joins``, one group at a time: the
    weights of no more than one are there twice.
    """
    for module in list(network.modules()):
        for name in getattr(module, "joins", {}):
            _join(module, name)


def join_layer(network: nn.Module, name: str) -> None:
    """Join a layer of a network with those that belong to it, if their weights are all there."""
    owner, _, last = name.rpartition(".")
    module = network.get_submodule(owner)
    for joined, names in getattr(module, "joins", {}).items():
        if last in names:
            _join(module, joined)


def _join(module: Any, name: str) -> None:
    """Join one group of a module's layers, unless they have to stay as they are."""
    layers = [getattr(module, each) for each in module.joins[name]]
    kind = type(layers[0])
    if getattr(module, name) is not None or kind not in KINDS:
        return
    if any(type(layer) is not kind for layer in layers):
        return
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    tensors = [*weights, *biases]
    whole = all(type(x.data) is Tensor and not x.is_meta for x in tensors)  # not of a rank alone
    alike = len({x.dtype for x in tensors}) == 1 and len(biases) in (0, len(layers))
    if whole and alike:
        setattr(module, name, KINDS[kind](layers))
