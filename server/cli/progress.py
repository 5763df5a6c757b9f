"""Progress of long work as a terminal or a log shows it, on stderr."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console

from models.printable import printable
from models.progress import Progress, Work
from models.sizes import bytes_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

SECONDS = 5.0  # between two lines where stderr is no terminal
PATIENCE = 1.0  # before brief work gets a bar on a terminal
FRAME = 0.1  # between two pictures of a bar


class ShownProgress(Progress):
    """A bar on a terminal, else a line every few seconds; and a line at the end of work that was
    shown. A thread shows them, since a single part of the work may take minutes.
    """

    def __init__(
        self, console: Console, seconds: float = SECONDS, patience: float = PATIENCE
    ) -> None:
        self._console, self._seconds, self._patience = console, seconds, patience
        self._lock = threading.Lock()
        self._work = Work("", "", "")
        self._have = 0
        self._began = 0.0
        self._seen = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, work: Work) -> None:
        """See ``Progress``."""
        self._work, self._have, self._seen = work, work.have, not work.brief
        self._began = time.monotonic()
        self._ended.clear()
        show = self._draw if self._console.is_interactive else self._tell
        self._thread = threading.Thread(target=show, name="xdlm-progress", daemon=True)
        self._thread.start()

    def advance(self, count: int = 1) -> None:
        """See ``Progress``."""
        with self._lock:
            self._have += count

    def end(self, whole: bool) -> None:
        """See ``Progress``."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._seen:
            work = self._work
            took = f"{time.monotonic() - self._began:.1f} s"
            facts = ", ".join(filter(None, (self._part(), took)))
            self.note(f"{work.name}: {work.done if whole else 'interrupted'}: {facts}")

    def note(self, line: str) -> None:
        """Print a line."""
        self._console.print(f"xdlm: {printable(line)}", markup=False, soft_wrap=True)

    def _tell(self) -> None:
        """Print a line every few seconds, until the work ends."""
        while not self._ended.wait(self._seconds):
            self._seen = True
            work, seconds = self._work, time.monotonic() - self._began
            share = f" ({self._have / work.total:.0%})" if work.total else ""
            pace = f"{seconds:.0f} s"
            if work.unit == "bytes" and work.total:
                pace = f"{bytes_text((self._have - work.have) / seconds)}/s"
            facts = ", ".join(filter(None, (self._part() + share, pace)))
            self.note(f"{work.name}: {work.doing}: {facts}")

    def _draw(self) -> None:
        """Draw a bar until the work ends."""
        if self._work.brief and self._ended.wait(self._patience):
            return
        self._seen = True
        bars = _bars(self._console, self._work)
        with bars:
            while not self._ended.wait(FRAME):
                bars.update(bars.task_ids[0], completed=self._have)
                bars.refresh()

    def _part(self) -> str:
        """How much is done of how much; empty where that is not known."""
        work = self._work
        if not work.total:
            return ""
        if work.unit == "bytes":
            return f"{bytes_text(self._have)} of {bytes_text(work.total)}"
        return f"{self._have} of {work.total} {work.unit}"


def _bars(console: Console, work: Work) -> Bars:
    """A bar with what is done, its rate and the remaining time."""
    from rich import progress

    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
    ]
    if work.total and work.unit == "bytes":
        columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    elif work.total:
        columns.append(progress.MofNCompleteColumn())
    columns.append(progress.TimeRemainingColumn() if work.total else progress.TimeElapsedColumn())
    shown = progress.Progress(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    name = printable(f"{work.name}: {work.doing}")
    shown.add_task(name, total=work.total or None, completed=work.have)
    return shown
