"""Text for a file descriptor that may be slow, full or closed, written without waiting for it."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

HELD: Final = 8 << 20
"""Bytes that wait for the reader at most; what comes beyond them is dropped and counted."""
PIECE: Final = 4096
"""Bytes of one write: a pipe that is said to be writable has room for as many."""
LOST: Final = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ECONNRESET, errno.ENOTCONN})
"""Errors after which nobody reads any more; others, a full disk for one, pass."""
RETRY_SECONDS: Final = 0.2


class LineWriter(io.TextIOBase):
    """A text stream whose ``write`` never blocks and never fails: one thread of its own hands the
    text to the file descriptor. Safe in signal handlers and on every thread.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, dropped: Callable[[int], str]) -> None:
        """Begin to write.

        Args:
            descriptor: stays open and is not closed.
            dropped: makes the line that says how many texts found no room.
        """
        super().__init__()
        self._descriptor, self._told_of = descriptor, dropped
        self._texts: SimpleQueue[bytes] = SimpleQueue()  # ``put`` is safe in a signal handler
        self._lock = threading.RLock()
        self._held = self._dropped = 0
        self.lost = False
        threading.Thread(target=self._run, name=f"xdlm-lines-{descriptor}", daemon=True).start()

    def write(self, text: str, /) -> int:
        """Take a text for the thread to write; drop it where too much waits already."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self.lost or not data:
                return len(text)
            if self._held + len(data) > HELD:
                self._dropped += 1
                return len(text)
            self._held += len(data)
        self._texts.put(data)
        return len(text)

    def writable(self) -> bool:
        """See ``io``."""
        return True

    def fileno(self) -> int:
        """See ``io``."""
        return self._descriptor

    def isatty(self) -> bool:
        """See ``io``."""
        return os.isatty(self._descriptor)

    def flush(self) -> None:
        """Nothing: whoever writes does not wait. See ``settle``."""

    def settle(self, seconds: float) -> None:
        """Wait until everything is written, for ``seconds`` at most."""
        end = time.monotonic() + seconds
        while self._held > 0 and not self.lost and time.monotonic() < end:
            time.sleep(0.005)

    def _run(self) -> None:
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while not self.lost:
            data = self._texts.get()
            self._put(room, data)
            with self._lock:
                self._held -= len(data)
                dropped = self._dropped if self._held < HELD // 2 else 0
                self._dropped -= dropped
            if dropped:
                self._put(room, self._told_of(dropped).encode())
        while True:  # nobody reads any more: keep nothing
            try:
                self._texts.get_nowait()
            except Empty:
                break

    def _put(self, room: select.poll, data: bytes) -> None:
        """Write one text, however long its reader takes."""
        while data and not self.lost:
            room.poll()
            try:
                data = data[os.write(self._descriptor, data[:PIECE]) :]
            except BlockingIOError:  # another process was faster
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                with self._lock:
                    self.lost = error.errno in LOST
                    self._dropped += 1
                if not self.lost:
                    time.sleep(RETRY_SECONDS)
                return


def never_blocking(descriptor: int) -> None:
    """Have writes of native code to a pipe or a terminal fail rather than wait for a reader. The
    descriptor gets an opening of its own, since other processes share the one that it came with;
    where the system does not allow that, it stays as it is.
    """
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISFIFO(mode) or os.isatty(descriptor)):
            return
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        own = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:
        return
    os.dup2(own, descriptor)
    os.close(own)
