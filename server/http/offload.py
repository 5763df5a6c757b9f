"""CPU-bound work on request bodies, run in a thread where the input is large."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

OFFLOAD_BYTES = 16 << 10
"""Inputs of at least this size take a millisecond or more to tokenise."""


async def offload(
    size: int, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
) -> Result:
    """Run CPU-bound work in a thread when its input is large, else on the event loop at once.

    Args:
        size: of the input, in bytes.
        work: the function to call.
        *args: of ``work``.
        **kwargs: of ``work``.
    """
    if size < OFFLOAD_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
