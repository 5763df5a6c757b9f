"""Moving averages of step times."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.8  # weight of the previous average when a step is recorded
LONGEST_WAIT = 600  # upper limit of ``Retry-After``, in seconds


@dataclass
class StepTimer:
    """Exponential moving averages of step times, in seconds.

    Attributes:
        step: time of a step; a step slower than the average replaces it.
        position: time per position of a step.
    """

    step: float = 1e-3
    position: float = 1e-5

    def record(self, seconds: float, positions: int) -> None:
        """Record the time of a step of a number of positions."""
        self.step = max(seconds, _smoothed(self.step, seconds))
        self.position = _smoothed(self.position, seconds / max(1, positions))

    def seconds(self, backlog: int) -> float:
        """Estimated seconds of a backlog (positions × steps)."""
        return backlog * self.position

    def retry_after(self, backlog: int) -> int:
        """Whole seconds until about half of a backlog is done: there is room by then, and the
        engine is not idle yet.
        """
        return max(1, min(math.ceil(self.seconds(backlog) / 2), LONGEST_WAIT))


@dataclass(frozen=True)
class PositionLimit:
    """The number of positions that a step may have.

    Attributes:
        most: limit at any pace.
        seconds: time that a step should take at most; infinite for no limit by time.
        least: limit however slow the pace is.
        by_memory: whether ``most`` is what the free memory allows.
    """

    most: int
    seconds: float = math.inf
    least: int = 1
    by_memory: bool = False

    def at(self, pace: float) -> int:
        """The limit at a number of seconds per position."""
        if self.seconds == math.inf:
            return self.most
        return min(self.most, max(self.least, int(self.seconds / max(pace, 1e-12))))


def _smoothed(before: float, now: float) -> float:
    return MEMORY * before + (1 - MEMORY) * now
