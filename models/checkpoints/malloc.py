"""How the C library keeps memory between the steps of a network, and gives it back before them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_MMAP_THRESHOLD = 32 << 20
LOADING_MMAP_THRESHOLD = 1 << 20

_keeps = False


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the kernel at every step.

    A network on a CPU frees and asks for the same buffers again and again; given back, each comes
    as new pages that have to be cleared. The process stays as large as it once was. Elsewhere than
    on glibc nothing is done.

    Returns:
        whether it was done.
    """
    global _keeps
    set_option = _mallopt()
    if set_option is None:
        return False
    kept = set_option(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    kept &= set_option(M_TRIM_THRESHOLD, 2**31 - 1)
    _keeps = bool(kept & set_option(M_ARENA_MAX, 1))
    return _keeps


@contextmanager
def giving_back() -> Iterator[None]:
    """In the block, have glibc give buffers of a MiB and more back as they are freed, although
    ``keep_freed_memory`` was called.

    While weights are loaded, many matrices of one size are made and freed between others that
    stay. An aligned buffer does not fit into the place of one of its own size, so each would leave
    a hole.
    """
    set_option = _mallopt() if _keeps else None
    if set_option is None:
        yield
        return
    set_option(M_MMAP_THRESHOLD, LOADING_MMAP_THRESHOLD)
    try:
        yield
    finally:
        set_option(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)


def _mallopt() -> Callable[[int, int], int] | None:
    """The function of glibc that sets an option; None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)
