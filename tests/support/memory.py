"""Memory, threads and descriptors of a process."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from pathlib import Path

POOL = re.compile(
    r"xdlm-(offload|template)_\d+|asyncio_\d+|AnyIO worker thread"
)  # bounded, and made when first needed


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if not POOL.fullmatch(t.name)}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def rss(pid: int | str = "self") -> int:
    """Bytes in memory; of this process without garbage and without what malloc keeps for later."""
    if pid == "self":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
