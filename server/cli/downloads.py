"""Downloads as a terminal or a log shows them, on stderr."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console

from models.hub.names import HubName
from models.hub.progress import Progress
from models.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

SECONDS = 5.0  # between two lines where stderr is no terminal


class Downloads(Progress):
    """A bar on a terminal, else a line every few seconds."""

    def __init__(self, console: Console, seconds: float = SECONDS) -> None:
        self._console, self._seconds = console, seconds
        self._lock = threading.Lock()
        self._name = ""
        self._size = self._have = self._came = 0
        self._began = self._told = 0.0
        self._bars: Bars | None = None

    def begin(self, name: HubName, commit: str, files: int, size: int, have: int) -> None:
        """Say which files are to come, from where."""
        from huggingface_hub import constants

        self._name, self._size, self._have, self._came = str(name), size, have, 0
        self._began = self._told = time.monotonic()
        here = f", {bytes_text(have)} of them in the cache" if have else ""
        self.note(
            f"{name}: downloading {files} files of weights, {bytes_text(size)}{here}, from "
            f"{constants.ENDPOINT} at {commit[:12]} into {constants.HF_HUB_CACHE}"
        )
        if self._console.is_terminal:
            self._bars = _bars(self._console)
            self._bars.add_task(self._name, total=size, completed=have)
            self._bars.start()

    def advance(self, count: int) -> None:
        """Move the bar, or print a line if the last one is old."""
        with self._lock:
            self._have += count
            self._came += count
            if self._bars is not None:
                self._bars.update(self._bars.task_ids[0], completed=self._have)
            elif (now := time.monotonic()) - self._told >= self._seconds:
                self._told = now
                rate = bytes_text(self._came / (now - self._began))
                part = f"{bytes_text(self._have)} of {bytes_text(self._size)}"
                self.note(f"{self._name}: {part} ({self._have / self._size:.0%}), {rate}/s")

    def end(self) -> None:
        """Remove the bar, and say how much has come."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        seconds = time.monotonic() - self._began
        whole = "downloaded" if self._have >= self._size else "interrupted"
        part = f"{bytes_text(self._have)} of {bytes_text(self._size)}"
        self.note(f"{self._name}: {whole}: {part}, {seconds:.1f} s")

    def note(self, line: str) -> None:
        """Print a line."""
        self._console.print(f"xdlm: {printable(line)}", markup=False, soft_wrap=True)


def _bars(console: Console) -> Bars:
    """A bar with bytes, rate and remaining time."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def bytes_text(count: float) -> str:
    """A size in decimal units, as disks and hubs count them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
