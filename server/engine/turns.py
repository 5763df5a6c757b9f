"""Tasks that take turns on the engine's thread, one pass of the network between two steps."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from models.checkpoints.load import Checkpoint
from server.engine.events import Failed
from server.engine.isolation import failure_of

log = structlog.get_logger()


class TaskFailed(Exception):
    """A task failed; ``failed`` holds the code and the message."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


ResultT = TypeVar("ResultT")


class Task(ABC, Generic[ResultT]):
    """Work on the network for one request. Cancelling ``future`` stops it.

    Attributes:
        future: of the result; it belongs to the event loop.
        left: work to go, in positions.
        message: of a failure that has no other words.
        counter: metric that counts tasks of its kind.
    """

    message: ClassVar[str]
    counter: ClassVar[str]
    future: asyncio.Future[ResultT]
    left: int

    @abstractmethod
    def advance(self, checkpoint: Checkpoint, positions: int) -> ResultT | TaskFailed | None:
        """One pass of up to ``positions``, or of one canvas; the outcome if it was the last."""

    def settle(self, outcome: ResultT | TaskFailed) -> None:
        """Resolve the future; runs on the event loop."""
        if self.future.done():
            return
        if isinstance(outcome, TaskFailed):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Turns:
    """Takes tasks from the event loop and works on them on the engine's thread. The list of tasks
    is read and changed under a lock, since the watchdog's thread may empty it at any time.
    """

    def __init__(
        self, checkpoint: Checkpoint, max_waiting: int, positions: int, max_backlog: int
    ) -> None:
        """Limits: tasks under way, canvas positions in one pass of the network, and their work."""
        self._checkpoint = checkpoint
        self._max_waiting, self._positions = max_waiting, positions
        self._max_backlog = max_backlog
        self._turns: deque[Task[Any]] = deque()
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Tasks under way."""
        return len(self._turns)

    @property
    def backlog(self) -> int:
        """Work to go, in positions."""
        with self._lock:
            return sum(task.left for task in self._turns)

    def has_room(self, work: int) -> bool:
        """Whether there is room for one more task, of some work. Work that is too much is taken
        where there is no other.
        """
        with self._lock:
            if len(self._turns) >= self._max_waiting:
                return False
            return not self._turns or self.backlog + work <= self._max_backlog

    def add(self, task: Task[Any]) -> None:
        """Add a task to the queue."""
        with self._lock:
            self._turns.append(task)

    def drain(self) -> list[Task[Any]]:
        """Remove and return all tasks."""
        with self._lock:
            left = list(self._turns)
            self._turns.clear()
            return left

    def advance(self) -> tuple[Task[Any], Any] | None:
        """One pass for the task whose turn it is; returns its outcome if that was the last."""
        with self._lock:
            while self._turns and self._turns[0].future.cancelled():
                self._turns.popleft()
            if not self._turns:
                return None
            task = self._turns[0]
        try:
            outcome = task.advance(self._checkpoint, self._positions)
        except Exception as error:
            log.exception("a pass failed", task=type(task).__name__)
            outcome = TaskFailed(Failed(failure_of(error).code, task.message))
        with self._lock:
            if not self._turns or self._turns[0] is not task:
                return None  # given up meanwhile
            if outcome is None:
                self._turns.rotate(-1)
                return None
            self._turns.popleft()
            return task, outcome
