"""Implementations of the same decoding that are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from benchmarks.isolated import steps_of
from fusion.choice import operations_of_pytorch
from models.base import DenoiserModule
from models.float8 import narrow_layer
from models.interface import Denoiser
from models.joined import join
from sampler.graphs import CudaRecorder, Recorder, StepGraphs
from sampler.interface import Sampler
from sampler.params import SamplingParams

Canvases = Sequence[tuple[list[int], list[bool], SamplingParams]]
Decode = Callable[[Denoiser, Sampler, Canvases, str], tuple[Tensor, int]]
"""(network, sampler, canvases, device) -> (tokens [positions], rows of logits computed)."""

_COPIES: dict[str, WeakKeyDictionary[nn.Module, DenoiserModule]] = {}


def copy_of(network: Denoiser, kind: str) -> DenoiserModule:
    """A copy of a network, made when it is first asked for: ``joined``, with its layers of one
    input as one; ``narrow``, with its blocks in float8; ``narrow joined``, both.
    """
    assert isinstance(network, DenoiserModule)
    made = _COPIES.setdefault(kind, WeakKeyDictionary())
    if (found := made.get(network)) is None:
        found = deepcopy(network)
        if "narrow" in kind:
            for name, p in found.named_parameters():
                if not any(part in name for part in found.wide):
                    p.data = p.data.to(torch.bfloat16)
            for name in [name for name, _ in found.named_modules()]:
                narrow_layer(found, name)
        if "joined" in kind:
            join(found)
        made[network] = found
    return found


def eagerly(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """``steps_of`` by the operations of PyTorch, one by one."""
    with operations_of_pytorch():
        return steps_of(network, sampler, canvases, device)


def in_float8(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """``eagerly`` with the blocks in float8."""
    return eagerly(copy_of(network, "narrow"), sampler, canvases, device)


class Repeated:
    """In place of a recording, on a CPU: the operations one by one, in the same fixed shapes."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See ``Recorder``."""
        result = work()
        return lambda: _written(result, work()), result


def _written(result: Tensor, anew: Tensor) -> None:
    result.copy_(anew)


_GRAPHS: WeakKeyDictionary[nn.Module, StepGraphs] = WeakKeyDictionary()


def graphs_of(network: Denoiser, device: str) -> StepGraphs:
    """The recordings of a network, kept from call to call."""
    assert isinstance(network, nn.Module)
    if (graphs := _GRAPHS.get(network)) is None:
        there = torch.device(device)
        recorder: Recorder = Repeated() if device == "cpu" else CudaRecorder(there)
        graphs = _GRAPHS[network] = StepGraphs(network, there, recorder)
    return graphs


def _in_graphs(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """``steps_of`` by recorded steps.

    Raises:
        RuntimeError: a recording gave something else than its operations one by one, or failed.
    """
    graphs = graphs_of(network, device)
    found = steps_of(network, sampler, canvases, device, graphs.take_steps)
    if graphs.refused:
        raise RuntimeError(f"{graphs.refused} recorded steps are not used; see the log")
    return found


def in_graphs(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """By recorded steps of the operations of PyTorch."""
    with operations_of_pytorch():
        return _in_graphs(network, sampler, canvases, device)


def fused(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """By recorded steps with joined layers and the project's own kernels."""
    return _in_graphs(copy_of(network, "joined"), sampler, canvases, device)


def fused_in_float8(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """``fused`` with the blocks in float8."""
    return _in_graphs(copy_of(network, "narrow joined"), sampler, canvases, device)


VARIANTS: dict[str, Decode] = {
    "eager": eagerly,
    "graph": in_graphs,
    "fused": fused,
    "fp8": fused_in_float8,
    "eager-fp8": in_float8,
}
"""By name. ``eager``: the operations of PyTorch one by one; ``graph``: the step recorded as a CUDA
graph; ``fused``: that with joined layers and kernels; ``fp8``: that with 8-bit weights;
``eager-fp8``: ``eager`` with them."""
ALIKE = {"graph", "fused"}
"""Variants that compute the same, but for the rounding of products of other sizes."""
