"""Keys of the terminal viewer: pause, one step on, go on."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from typing import Any

HELP = "space pauses, → a step, q to the end"
PAUSE, STEP, REST = (b" ", b"p"), (b"\x1b[C", b"n", b"."), (b"q",)


class Keys:
    """Waits between steps for as long as the keys say; without a terminal for the delay alone.

    Attributes:
        listens: whether keys are read.
        paused: only a key lets the next step be shown.
    """

    def __init__(self, delay: float) -> None:
        """``delay``: seconds between steps while it plays."""
        self.delay = delay
        self.listens = sys.stdin.isatty() and sys.stdout.isatty()
        self.paused = False
        self._pressed: asyncio.Queue[bytes] = asyncio.Queue()
        self._before: list[Any] | None = None

    def start(self) -> None:
        """Read keys as they are pressed, on the running event loop."""
        if not self.listens or self._before is not None:
            return
        fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
        asyncio.get_running_loop().add_reader(fd, self._read, fd)

    def stop(self) -> None:
        """Give the terminal back as it was."""
        if self._before is not None:
            fd = sys.stdin.fileno()
            asyncio.get_running_loop().remove_reader(fd)
            termios.tcsetattr(fd, termios.TCSADRAIN, self._before)
            self._before = None

    def _read(self, fd: int) -> None:
        self.press(os.read(fd, 16))

    def press(self, key: bytes) -> None:
        """Take a key as if it had been pressed."""
        self._pressed.put_nowait(key)

    async def turn(self) -> None:
        """Return when the next step is to be shown."""
        while True:
            try:
                limit = None if self.paused else self.delay
                key = await asyncio.wait_for(self._pressed.get(), limit)
            except TimeoutError:
                return
            if key in PAUSE:
                self.paused = not self.paused
            elif key in STEP:
                self.paused = True
                return
            elif key in REST:
                self.paused, self.delay = False, 0.0
                return
