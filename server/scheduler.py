"""Who runs in the next step. Plain data: no torch, no threads, no clock, no sampler."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class QueueFull(Exception):
    """No place in the waiting queue."""


class Scheduler(Generic[Key]):
    """First come, first served, within a budget of positions per step.

    A request joins between any two steps, as soon as its canvas fits beside those that run. One
    that is larger than what is left waits at the head of the queue, so that small ones cannot
    starve it.
    """

    def __init__(self, max_waiting: int, max_running: int, max_positions: int) -> None:
        """Limits: requests waiting, requests running, positions denoised in one step."""
        self.max_waiting, self.max_running = max_waiting, max_running
        self.max_positions = max_positions
        self._waiting: deque[tuple[Key, int]] = deque()
        self._running: dict[Key, int] = {}

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def queue(self) -> list[Key]:
        """The requests that wait."""
        return [key for key, _ in self._waiting]

    @property
    def room(self) -> int:
        """Requests that can still be queued."""
        return self.max_waiting - len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that take part in the next step."""
        return len(self._running)

    def submit(self, key: Key, positions: int) -> None:
        """Queue a request of so many positions.

        Raises:
            QueueFull: it was not queued.
        """
        if self.room < 1:
            raise QueueFull
        self._waiting.append((key, positions))

    def admit(self) -> list[Key]:
        """Move those that fit from the queue to the running ones, and name them."""
        used = sum(self._running.values())
        joined = []
        while self._waiting and len(self._running) < self.max_running:
            key, positions = self._waiting[0]
            if self._running and used + positions > self.max_positions:
                break
            self._waiting.popleft()
            self._running[key] = positions
            used += positions
            joined.append(key)
        return joined

    def drain(self) -> list[Key]:
        """Empty the queue, and name those that were in it."""
        waiting = [key for key, _ in self._waiting]
        self._waiting.clear()
        return waiting

    def remove(self, key: Key) -> None:
        """Forget a request, finished or cancelled, wherever it is."""
        if self._running.pop(key, None) is None:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != key)
