"""Detects hung steps, and ends the process if they do not recover."""

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
"""This number of incidents within this number of seconds ends the process."""
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


def give_up(reason: str) -> NoReturn:
    """End the process at once, for a supervisor to restart it. A thread that hangs in native code
    cannot be ended in another way.
    """
    log.critical("giving up", reason=reason, exit_code=EXIT_CODE)
    logs.settle()
    os._exit(EXIT_CODE)


class Watchdog:
    """Detects steps that take too long.

    A hung step is reported once, by a log line with the stack of the thread and by ``on_hang``.
    ``on_fatal`` is called if it takes twice the limit, and after three incidents within five
    minutes.
    """

    def __init__(
        self,
        seconds: float,
        on_fatal: Callable[[str], None] = give_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``seconds``: limit of a step; 0 disables the watchdog."""
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
        """Whether a step is past its limit."""
        return self._hung

    def began(self) -> None:
        """Record the begin of a step; called by the thread that takes it."""
        with self._lock:
            self._began, self._thread_id = self._clock(), threading.get_ident()

    def ended(self) -> None:
        """Record the end of a step."""
        with self._lock:
            began, self._began = self._began, None
            was_hung, self._hung = self._hung, False
        if was_hung and began is not None:
            log.warning("the step came back", seconds=round(self._clock() - began, 3))

    def incident(self, what: str) -> None:
        """Record a failure that no single request has caused."""
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
        """Check the step in progress."""
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
        """Check periodically, in a thread of its own, until ``stop``."""
        if self.seconds:
            threading.Thread(target=self._run, name="xdlm-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the periodic checks."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            self.check()

    def _stack(self) -> str:
        """Where the thread is, for the log."""
        frame = sys._current_frames().get(self._thread_id or 0)
        return "".join(traceback.format_stack(frame)) if frame else ""


def _nothing() -> None:
    """Default of ``Watchdog.on_hang``."""
