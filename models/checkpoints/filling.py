"""Stored weights put into networks that were built on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.base import CheckpointModule
from models.checkpoints.weights import Header, checked, opened, whole
from models.packed import LEAST
from models.progress import SILENT, Progress


def fill(
    network: CheckpointModule,
    found: Mapping[str, Header],
    device: torch.device,
    dtype: torch.dtype,
    part: Callable[[Any, Header], Tensor] = whole,
    progress: Progress = SILENT,
    settle: Callable[[nn.Module, str], None] | None = None,
) -> None:
    """Put stored weights, already compared, into a network; see ``weights_of``.

    Args:
        network, found, device, dtype, part, progress: see ``weights_of``.
        settle: called with the network and the name of a module after each of its weights:
            ``pack_layer`` or ``quantise_layer``, which spares a second copy of all of them. No
            other large weight stays in the pages of its file then.

    Raises:
        CheckpointError: damaged, or see ``checked``.
    """
    for name, tensor in weights_of(network, found, device, dtype, part, progress):
        owner, _, last = name.rpartition(".")
        module = network.get_submodule(owner)
        large = device.type == "cpu" and tensor.numel() >= LEAST
        if settle and large and type(module) is not nn.Linear:
            tensor = tensor.clone()
        is_parameter = last in module._parameters
        setattr(module, last, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
        del tensor
        if settle:
            settle(network, owner)
    network.requires_grad_(False)


def weights_of(
    network: CheckpointModule,
    found: Mapping[str, Header],
    device: torch.device,
    dtype: torch.dtype,
    part: Callable[[Any, Header], Tensor] = whole,
    progress: Progress = SILENT,
) -> Iterator[tuple[str, Tensor]]:
    """Weights of a network, already compared, by the names of its parameters and buffers; the
    largest of a file first, so that what is needed beside one of them is needed while there are
    few.

    Args:
        network: whose weights they are.
        found: where they are stored.
        device: where they go.
        dtype: of those that the network does not hold wide.
        part: reads what is wanted of a tensor from its open file.
        progress: advances by the bytes of each tensor as it is stored.

    Raises:
        CheckpointError: damaged, or see ``checked``.
    """
    derived, pieces = network.derived(), network.pieces()
    sizes = {name: tensor.shape for name, tensor in network.state_dict().items()} if pieces else {}
    left = Counter(pieces[name].parameter for name in found if name in pieces)
    begun: dict[str, Tensor] = {}
    wanted = [each for each in found.items() if not network.passed_over(each[0])]
    ordered = sorted(wanted, key=lambda each: -each[1].size)
    for path in {header.path: None for _, header in ordered}:
        with opened(path, device) as file:
            for name, header in ordered:
                if header.path != path:
                    continue
                wide = any(w in name for w in network.wide)
                kind = torch.float32 if wide else dtype
                tensor = checked(path, name, part(file, header), network, kind)
                progress.advance(header.size)
                if (piece := pieces.get(name)) is not None:
                    parameter = piece.parameter
                    if parameter not in begun:
                        begun[parameter] = tensor.new_empty(sizes[parameter])
                    begun[parameter][piece.at] = tensor
                    left[parameter] -= 1
                    if not left[parameter]:
                        yield parameter, begun.pop(parameter)
                elif name not in derived:
                    yield name, tensor
                del tensor


def put(network: CheckpointModule, state: Mapping[str, Tensor]) -> None:
    """Make tensors the weights of a network that was built on the meta device."""
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False)
