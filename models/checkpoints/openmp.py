"""Threads that OpenMP keeps for each thread that has computed with torch."""

from __future__ import annotations

import ctypes

OMP_PAUSE_SOFT = 1  # omp.h


def end_idle_threads() -> bool:
    """End the threads that OpenMP keeps for the calling thread; its next work starts new ones.

    libgomp counts the threads of all pools. If there are more than cores, they no longer wait
    actively for each other, and each operation of another thread's step begins with a system call.

    Returns:
        whether it was done.
    """
    try:
        pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    except OSError:
        return False
    return pause is not None and pause(OMP_PAUSE_SOFT) == 0
