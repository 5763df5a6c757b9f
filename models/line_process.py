"""The server's side of a process that answers lines: questions with a deadline.

The process may be slow, dead, or stopped by a signal; none of it may keep the asking thread, so
nothing here waits without looking at the process and at the clock.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.05
"""Between two looks at whether the process is stopped and whether the answer is still wanted."""
GRACE_SECONDS = 5.0
"""Behind the limit that the process has itself, to start and to write its answer."""
CHUNK = 1 << 16


class Stopped:
    """In place of an answer: the process was stopped, and has been ended."""


class LineProcess(subprocess.Popen[bytes]):
    """A process that answers lines of JSON. It ends when nobody can ask it any more."""

    def __init__(self, program: str, first: object, seconds: float) -> None:
        """Start it.

        Args:
            program: Python that serves, with the folder of our packages and the server's process
                id as arguments.
            first: goes before the first question.
            seconds: an answer may take, by the clock; the process has this limit itself.

        Raises:
            OSError: the machine has no room for it.
        """
        root = Path(__file__).parent.parent
        super().__init__(
            # -I: neither the working folder nor PYTHONPATH
            [sys.executable, "-I", "-c", program, str(root), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},  # none of the server's keys
        )
        assert self.stdin is not None and self.stdout is not None
        self._into, self._out = self.stdin.fileno(), self.stdout.fileno()
        os.set_blocking(self._into, False)
        os.set_blocking(self._out, False)
        self._first, self._seconds = json.dumps(first).encode() + b"\n", seconds

    def end(self) -> None:
        """End it and forget its pipes."""
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def ask(
        self, question: bytes, gone: Callable[[], bool], most: int
    ) -> dict[str, Any] | int | Stopped:
        """Put a line to it and read one.

        Args:
            question: a line of JSON.
            gone: whether nobody wants the answer any more; then the process is ended.
            most: bytes of an answer.

        Returns:
            the answer, or the exit status of a process that ended over the question.
        """
        left = memoryview(self._first + question)
        self._first = b""
        answer = bytearray()
        end = time.monotonic() + self._seconds + GRACE_SECONDS
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._into, select.POLLOUT)
        while not answer.endswith(b"\n"):
            ready = dict(poll.poll(1e3 * LOOK_SECONDS))
            try:
                if self._into in ready:
                    left = left[os.write(self._into, left[:CHUNK]) :]
                    if not left:
                        poll.unregister(self._into)
                if self._out in ready:
                    piece = os.read(self._out, CHUNK)
                    if not piece:
                        break
                    answer += piece
            except BlockingIOError:
                continue
            except BrokenPipeError:  # it has ended, and may have said something before
                poll.unregister(self._into)
            if not ready and self._is_stopped():
                self.end()
                return Stopped()
            if gone() or time.monotonic() > end or len(answer) > most:
                break
        if answer.endswith(b"\n"):
            return json.loads(answer)
        with suppress(subprocess.TimeoutExpired):  # its pipe is closed a moment before it is gone
            self.wait(0 if gone() else LOOK_SECONDS)
        self.end()
        return self.returncode

    def _is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        with suppress(ChildProcessError):
            options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, options) is not None
        return False
