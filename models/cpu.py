"""The number types that the processor has instructions for."""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
