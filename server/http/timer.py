"""A deadline of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timer:
    """Calls a function after a while, once; starting it again cancels the call before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Not started."""
        self._loop = loop
        self._call: asyncio.TimerHandle | None = None

    def start(self, seconds: float, late: Callable[..., object], *args: object) -> None:
        """Call ``late`` with ``args`` after some seconds."""
        self.stop()
        self._call = self._loop.call_later(seconds, late, *args)

    def stop(self) -> None:
        """Cancel the call, if one is waiting."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
