"""Work on long texts, aside from the event loop: others are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Made = TypeVar("Made")

LONG = 16 << 10  # bytes that take a millisecond or more to tokenise


async def aside(
    size: int, work: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs
) -> Made:
    """Do some work: on a thread where it is on so many bytes that the event loop would stall, else
    at once.
    """
    if size < LONG:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
