"""How long a step takes, as seen of late."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.8  # how much of the pace seen so far stays when a step has been timed
LONGEST_WAIT = 600  # seconds that a client is told to stay away at most


@dataclass
class StepTimer:
    """Seconds, with more weight on the last steps.

    Attributes:
        step: of a step; one that took longer than those before counts in full.
        position: of each position in it.
    """

    step: float = 1e-3
    position: float = 1e-5

    def record(self, seconds: float, positions: int) -> None:
        """Learn from a step."""
        self.step = max(seconds, _smoothed(self.step, seconds))
        self.position = _smoothed(self.position, seconds / max(1, positions))

    def seconds(self, backlog: int) -> float:
        """About how long a backlog (positions × steps) takes."""
        return backlog * self.position

    def retry_after(self, backlog: int) -> int:
        """Whole seconds until about half of a backlog will be done: there will be room then, and
        the engine will not have run dry.
        """
        return max(1, min(math.ceil(self.seconds(backlog) / 2), LONGEST_WAIT))


def _smoothed(before: float, now: float) -> float:
    return MEMORY * before + (1 - MEMORY) * now
