"""Implementations of the same decoding that are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from benchmarks.device.report import NOT_BUILT, Report
from benchmarks.isolated import steps_of
from models.base import DenoiserModule
from models.float8 import narrow_layer
from models.interface import Denoiser
from sampler.graphs import CudaRecorder, Recorder, StepGraphs
from sampler.interface import Sampler
from sampler.params import SamplingParams

Canvases = Sequence[tuple[list[int], list[bool], SamplingParams]]
Decode = Callable[[Denoiser, Sampler, Canvases, str], tuple[Tensor, int]]
"""(network, sampler, canvases, device) -> (tokens [positions], rows of logits computed)."""

_NARROW: WeakKeyDictionary[nn.Module, DenoiserModule] = WeakKeyDictionary()


def in_float8(
    network: Denoiser, sampler: Sampler, canvases: Canvases, device: str
) -> tuple[Tensor, int]:
    """``steps_of`` by a copy of the network with its blocks in float8, made in the first call."""
    assert isinstance(network, DenoiserModule)
    if (narrow := _NARROW.get(network)) is None:
        narrow = deepcopy(network)
        for name, p in narrow.named_parameters():
            if not any(part in name for part in narrow.wide):
                p.data = p.data.to(torch.bfloat16)
        for name in [name for name, _ in narrow.named_modules()]:
            narrow_layer(narrow, name)
        _NARROW[network] = narrow
    return steps_of(narrow, sampler, canvases, device)


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
        recorder: Recorder = Repeated() if device == "cpu" else CudaRecorder()
        graphs = _GRAPHS[network] = StepGraphs(network, torch.device(device), recorder)
    return graphs


def in_graphs(
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


VARIANTS: dict[str, Decode | None] = {
    "eager": steps_of,
    "graph": in_graphs,
    "fused": None,
    "fp8": None,
    "eager-fp8": in_float8,
    "dual": None,
}
"""By name; None where there is no implementation yet. ``graph``: the step recorded as a CUDA graph;
``fused``: that with fused kernels; ``fp8``: that with 8-bit weights; ``eager-fp8``: ``eager`` with
them; ``dual``: with a cache of keys and values outside the block."""
ALIKE = {"graph"}
"""Variants that compute the same, but for the rounding of products of other sizes."""


def built(report: Report) -> dict[str, Decode]:
    """The variants that exist; the others are recorded as skipped, once in a section."""
    for variant, decode in VARIANTS.items():
        known = any(
            r["section"] == report.section and r["variant"] == variant for r in report.records
        )
        if decode is None and not known:
            report.skip("all cases", variant, NOT_BUILT)
    return {variant: decode for variant, decode in VARIANTS.items() if decode is not None}
