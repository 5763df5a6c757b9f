"""Processes that a server starts: they end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends, however that happens.

    Linux alone can do so; elsewhere the process has to notice that nobody speaks with it.

    Args:
        parent: the process that started it; where it is gone already, this one ends at once.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
