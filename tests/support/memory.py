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


def within(limit: float) -> bool:
    """Whether this process has no more memory than that, if need be once garbage is collected."""
    return _anonymous("self") <= limit or rss() <= limit


def rss(pid: int | str = "self") -> int:
    """Bytes of its own that a process has in memory; of this one without garbage and without what
    malloc keeps for later.

    Pages of files do not count: the kernel drops and reads them as it likes.
    """
    if pid == "self":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return _anonymous(pid)


def _anonymous(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, f"no process {pid}"
    return int(found[1]) << 10
