"""How the C library keeps memory between the steps of a network."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_MMAP_THRESHOLD = 32 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the kernel at every step.

    A network on a CPU frees and asks for the same buffers again and again; given back, each comes
    as new pages that have to be cleared. The process stays as large as it once was. Elsewhere than
    on glibc nothing is done.

    Returns:
        whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    kept &= mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept & mallopt(M_ARENA_MAX, 1))
