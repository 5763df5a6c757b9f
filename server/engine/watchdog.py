"""Watches that the engine's steps come back."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import structlog

from server import logs

log = structlog.get_logger()

INCIDENTS, WITHIN = 3, 300.0
"""So many incidents within so many seconds end the process."""
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


def give_up(reason: str) -> NoReturn:
    """End the process at once: whoever supervises it starts a new one. A thread that hangs in
    native code can be ended in no other way.
    """
    log.critical("giving up", reason=reason, exit_code=EXIT_CODE)
    logs.settle()
    os._exit(EXIT_CODE)


class Watchdog:
    """Notices when a step takes too long.

    A hung step is told once: a log line with the stack of the thread, and ``on_hang``. If it takes
    twice as long it will not come back, and ``on_fatal`` is called; likewise after three incidents
    within five minutes.
    """

    def __init__(
        self,
        seconds: float,
        on_fatal: Callable[[str], None] = give_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``seconds`` that a step may take; 0 watches nothing."""
        self.seconds = seconds
        self.on_hang: Callable[[], None] = _nothing
        self._on_fatal, self._clock = on_fatal, clock
        self._began: float | None = None
        self._thread_id: int | None = None
        self._hung = False
        self._incidents: deque[float] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()

    @property
    def hung(self) -> bool:
        """A step has not come back in time, and still has not."""
        return self._hung

    def began(self) -> None:
        """A step begins; called by the thread that takes it."""
        with self._lock:
            self._began, self._thread_id = self._clock(), threading.get_ident()

    def ended(self) -> None:
        """It came back."""
        with self._lock:
            began, self._began = self._began, None
            was_hung, self._hung = self._hung, False
        if was_hung and began is not None:
            log.warning("the step came back", seconds=round(self._clock() - began, 3))

    def incident(self, what: str) -> None:
        """Something went wrong that is no request's fault."""
        now = self._clock()
        with self._lock:
            self._incidents.append(now)
            while self._incidents[0] < now - WITHIN:
                self._incidents.popleft()
            count = len(self._incidents)
        log.error("incident", what=what, count=count, within_seconds=WITHIN)
        if count >= INCIDENTS:
            self._on_fatal(f"{count} incidents within {WITHIN:g} s; the last: {what}")

    def check(self) -> None:
        """Look once."""
        with self._lock:
            took = 0.0 if self._began is None else self._clock() - self._began
            newly = took > self.seconds and not self._hung
            self._hung |= newly
        if newly:
            log.critical("a step hangs", seconds=round(took, 3), stack=self._stack())
            self.on_hang()
            self.incident("a step hangs")
        elif took > 2 * self.seconds:
            self._on_fatal(f"a step has not come back for {took:.1f} s")

    def start(self) -> None:
        """Look again and again, on a thread of its own, until ``stop``."""
        if self.seconds:
            threading.Thread(target=self._run, name="xdlm-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            self.check()

    def _stack(self) -> str:
        """Where the thread is, for the log."""
        frame = sys._current_frames().get(self._thread_id or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""


def _nothing() -> None:
    """Nobody asked to be told."""
