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
        narrow = deepcopy(network).to(torch.bfloat16)
        for name in [name for name, _ in narrow.named_modules()]:
            narrow_layer(narrow, name)
        _NARROW[network] = narrow
    return steps_of(narrow, sampler, canvases, device)


VARIANTS: dict[str, Decode | None] = {
    "eager": steps_of,
    "graph": None,
    "fused": None,
    "fp8": None,
    "eager-fp8": in_float8,
    "dual": None,
}
"""By name; None where there is no implementation yet. ``graph``: the step recorded as a CUDA graph;
``fused``: that with fused kernels; ``fp8``: that with 8-bit weights; ``eager-fp8``: ``eager`` with
them; ``dual``: with a cache of keys and values outside the block."""
EXACT = {"graph"}
"""Variants that must give the tokens of ``eager`` bit for bit in fp32."""


def built(report: Report) -> dict[str, Decode]:
    """The variants that exist; the others are recorded as skipped, once in a section."""
    for variant, decode in VARIANTS.items():
        known = any(
            r["section"] == report.section and r["variant"] == variant for r in report.records
        )
        if decode is None and not known:
            report.skip("all cases", variant, NOT_BUILT)
    return {variant: decode for variant, decode in VARIANTS.items() if decode is not None}
