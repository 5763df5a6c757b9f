"""The named events of one run: written once, followed by any number of readers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from server.http.errors import Problem, error_body
from server.http.json_response import Answer

OVERHEAD = 200  # bytes that a record takes beside its data
FORGOTTEN = "trajectory_forgotten"


class Failed(Answer):
    """diffusion.failed: the run failed."""

    id: str
    elapsed_ms: float
    error: Problem


@dataclass(frozen=True, slots=True)
class Record:
    """One event: its name, and its data as JSON."""

    name: str
    data: bytes

    @classmethod
    def of_failure(cls, id_: str, began: float, code: str, message: str) -> Record:
        """The record that ends a failed run, which began at a time of the monotonic clock."""
        elapsed = round(1e3 * (time.monotonic() - began), 3)
        error = error_body(500, message, None, code)
        failed: Failed = {"id": id_, "elapsed_ms": elapsed, **error}
        return cls("diffusion.failed", orjson.dumps(failed))


class Recording:
    """A list of records that only grows, until one is the last; lives on the event loop.

    Readers follow it at their own pace and do not delay the run: unread records are kept here and
    nowhere else. If it is forgotten, readers get a last record with that error.

    Attributes:
        id: its name, not guessable.
        owner: digest of the key that it was made with; empty on a server without keys.
        records: the n-th has the id n among its events.
        size: bytes that they take.
        ended: the last one has been written.
        failed: the code of the error that it ended with.
        followers: number of current readers.
    """

    def __init__(
        self,
        id_: str,
        on_cancel: Callable[[str, str], None],
        on_followers: Callable[[], None],
        owner: bytes = b"",
    ) -> None:
        """An empty recording. ``on_followers`` is called when a reader comes or goes."""
        self.id, self.owner = id_, owner
        self.records: list[Record] = []
        self.size = 0
        self.ended = False
        self.failed: str | None = None
        self.followers = 0
        self._farewell: tuple[int, Record] | None = None
        self._began = time.monotonic()
        self._on_cancel, self._on_followers = on_cancel, on_followers
        self._more = asyncio.Event()

    def append(self, record: Record, last: bool = False) -> int:
        """Write a record, and return how many bytes that took. After the last one nothing is
        written any more.
        """
        if self.ended:
            return 0
        self.records.append(record)
        taken = len(record.data) + OVERHEAD
        self.size += taken
        self.ended = last
        if last:  # a kept recording must not keep alive what made it
            self._on_cancel, self._on_followers = _no_one_left, _nothing
        self._more.set()
        self._more = asyncio.Event()
        return taken

    def cancel(self, code: str, message: str) -> None:
        """End the run with an error. Does nothing after the end."""
        if not self.ended:
            self._on_cancel(code, message)

    def forget(self) -> None:
        """Free the records of a recording that has ended. Readers that have not come to the end get
        its error, or one that says that it was forgotten.
        """
        n = len(self.records) - 1
        if self.failed is None:
            message = "the trajectory was forgotten before all of it was read"
            self._farewell = n, Record.of_failure(self.id, self._began, FORGOTTEN, message)
            self.failed = FORGOTTEN
        else:
            self._farewell = n, self.records[n]
        self.records = []
        self.size = 0

    @contextmanager
    def followed(self) -> Generator[None]:
        """Counts a reader while the context is open."""
        self.followers += 1
        self._on_followers()
        try:
            yield
        finally:
            self.followers -= 1
            self._on_followers()

    async def follow(self, start: int = 0) -> AsyncGenerator[tuple[int, Record]]:
        """Numbered records from ``start`` on, those still to come included, to the last."""
        n = start
        while True:
            more = self._more
            while n < len(self.records):
                yield n, self.records[n]
                n += 1
                await asyncio.sleep(0)  # a long replay leaves room for others
            if self._farewell is not None and n <= self._farewell[0]:
                yield self._farewell
                return
            if self.ended:
                return
            await more.wait()


def _nothing() -> None:
    """Replaces ``on_followers`` after the end."""


def _no_one_left(code: str, message: str) -> None:
    """Replaces ``on_cancel`` after the end."""
