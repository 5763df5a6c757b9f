"""Seeded random networks of published shapes, drawn on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from benchmarks.device.report import Report
from models.families.dit import DiT
from models.families.dit_config import DIT_SHAPES, DiTConfig
from models.families.llada import LLaDA, LLaDAConfig
from models.families.llada_config import SHAPES


@dataclass
class Bench:
    """The device, the size of the work and the report of a run.

    Attributes:
        device: ``cuda`` or ``cpu``.
        small: small shapes and few runs, with which a CPU exercises every section.
        report: receives the records.
        matrix_rate: FLOP/s of the device, once section 0 has measured it.
    """

    device: str
    small: bool
    report: Report
    matrix_rate: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the random networks: bf16, on a CPU fp32."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @cached_property
    def llada_shape(self) -> dict[str, Any]:
        """Fields of the LLaDA that is measured."""
        return SHAPES["tiny" if self.small else "llada-8b"]

    @cached_property
    def dit_shape(self) -> dict[str, Any]:
        """Fields of the DiT that is measured."""
        if not self.small:
            return DIT_SHAPES["small-owt"]
        return {**DIT_SHAPES["small-owt"], "hidden_dim": 32, "n_blocks": 2, "n_heads": 2}

    @property
    def llada_name(self) -> str:
        """Its name in cases."""
        return "llada-tiny" if self.small else "llada-8b"

    def runs(self, count: int) -> int:
        """How often a measurement is taken that a card takes ``count`` times."""
        return 1 if self.small else count

    def llada(self) -> LLaDA:
        """A LLaDA with random weights."""
        return random_llada(self.llada_shape, self.device, self.dtype)

    def dit(self) -> DiT:
        """A DiT with random weights."""
        return random_dit(self.dit_shape, self.device, self.dtype)

    def free(self) -> None:
        """Give memory that nothing uses back to the device."""
        if self.device != "cpu":
            torch.cuda.empty_cache()


def random_llada(shape: dict[str, Any], device: str, dtype: torch.dtype) -> LLaDA:
    """A LLaDA of some fields of ``config.json``."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LLaDA(LLaDAConfig(**shape))
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False).ready(torch.device(device))
    return model


def random_dit(shape: dict[str, Any], device: str, dtype: torch.dtype) -> DiT:
    """A DiT of some fields of ``config.json``; the modulation folded, as when loaded."""
    torch.manual_seed(0)
    with torch.device(device):
        model = DiT(DiTConfig.from_dict({"model_type": "dit", **shape}, None))
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, std=0.02)
        if not any(part in name for part in model.wide):
            p.data = p.data.to(dtype)
    model.eval().requires_grad_(False).ready(torch.device(device))
    return model
