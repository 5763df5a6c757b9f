"""Weights of linear layers in the layout that oneDNN multiplies in.

``F.linear`` on a CPU brings the weights into such a layout in every call. For the few rows of a
denoising step and a matrix that no cache holds, that takes about as long as the product. A packed
product has the same bits for any number of rows, so that a network of nothing else needs no rows
that fill up its batches. In bfloat16, which is packed where the CPU computes in it, bits depend on
the number of rows, packed or not. Only for inference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.choice import possible
from models import cpu
from models.base import MIN_ROWS, CheckpointModule, DenoiserModule
from models.joined import Joined, products
from models.kernels.gate import swiglu

_OPS = torch.ops.mkldnn
LEAST = 1 << 14
"""Entries of a matrix that is packed at least."""


class PackedLinear(nn.Module):
    """x W^T + b for a W that is packed; it cannot be trained or saved.

    Attributes:
        weight: packed; it has a type, but no entries that could be read.
        in_features, out_features: as of ``nn.Linear``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack weights [N, K]; ``bias`` [N]."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = _OPS._reorder_linear_weight(weight.detach(), MIN_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self._product(x)

    def silu(self, x: Tensor) -> Tensor:
        """The silu of ``forward``, taken within the product."""
        return self._product(x, "swish")

    def gelu(self, x: Tensor) -> Tensor:
        """The gelu of ``forward`` in its tanh form, taken within the product."""
        return self._product(x, "gelu", "tanh")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """``forward`` times a factor of its shape, multiplied within the product."""
        if self._is_alone(x):
            return self.forward(x) * factor
        return _OPS._linear_pointwise.binary(x, factor, self.weight, self._bias, "mul")

    def _product(self, x: Tensor, act: str = "none", form: str = "") -> Tensor:
        if self._is_alone(x):
            twice = torch.cat([x.view(1, -1)] * 2)
            return self._product(twice, act, form)[:1].view(*x.shape[:-1], -1)
        return _OPS._linear_pointwise(x, self.weight, self._bias, act, [], form)

    def _is_alone(self, x: Tensor) -> bool:
        """Whether x is a single row in float32, which some CPUs sum in another order."""
        return x.numel() == self.in_features and x.dtype == torch.float32

    def extra_repr(self) -> str:
        """As of ``nn.Linear``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def gated(
    gate: nn.Module,
    up: nn.Module,
    y: Tensor,
    act: Callable[[Tensor], Tensor] = F.silu,
    joined: Joined | None = None,
) -> Tensor:
    """act(gate(y)) * up(y) of two linear layers, element by element; of the one that they are
    ``joined`` in, if there is one.

    Silu and the factor are part of packed products. That saves two passes over the widest tensor of
    a layer, in bfloat16 two roundings, and in float32 every entry is computed alike: PyTorch's silu
    rounds the last entries of a thread's share in another way.
    """
    if act is F.silu and isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
        return up.times(y, gate.silu(y))
    if act is F.silu and possible(y):
        return swiglu(*products(y, joined, (gate, up)))
    if joined is None:
        opened, factor = act(gate(y)), up(y)
    else:
        opened, factor = joined(y)
        opened = act(opened)
    # in place where no gradient needs the factors: one buffer less to walk through
    return opened * factor if torch.is_grad_enabled() else opened.mul_(factor)


def gelu_of(layer: nn.Module, y: Tensor) -> Tensor:
    """The gelu, in its tanh form, of a linear layer; as part of the product if it is packed."""
    if isinstance(layer, PackedLinear):
        return layer.gelu(y)
    return F.gelu(layer(y), approximate="tanh")


def pack(network: nn.Module) -> None:
    """Replace the large linear layers of a network on a CPU by packed ones, one at a time: no more
    than one matrix is there twice. That of a ``wide_head`` stays twice.
    """
    if not _is_possible():
        return
    for name in [name for name, m in network.named_modules() if type(m) is nn.Linear]:
        pack_layer(network, name)
    if not isinstance(network, DenoiserModule):
        return
    if (table := network.wide_head) is not None and _suits(table):
        network.packed_head = PackedLinear(table)
    left = any(isinstance(m, nn.Linear) for m in network.modules())
    if network.own_head and not left:
        network.least_rows = 1


def pack_layer(network: nn.Module, name: str) -> None:
    """Replace a module of a network by a packed one, if it is a large linear layer on a CPU whose
    weights are all there. Its matrix is there twice for that moment. Those that stay wide are not
    packed: a DiT computes with them in float64, once.
    """
    layer = network.get_submodule(name)
    if isinstance(network, CheckpointModule) and any(n in f"{name}." for n in network.wide):
        return
    if type(layer) is not nn.Linear or not _suits(layer.weight) or not _is_possible():
        return
    if layer.bias is not None and layer.bias.is_meta:
        return
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, PackedLinear(layer.weight, layer.bias))


def _is_possible() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(_OPS, "_reorder_linear_weight")


def _suits(weight: Tensor) -> bool:
    narrow = weight.dtype == torch.bfloat16 and cpu.has_fast_bfloat16()
    suits = weight.dtype == torch.float32 or narrow
    return suits and weight.device.type == "cpu" and weight.numel() >= LEAST
