"""An engine with all its parts, as settings want it."""

from __future__ import annotations

import math

from models.checkpoints.load import Checkpoint
from server.config import Settings
from server.engine.engine import Deadlines, Engine
from server.engine.metrics import Metrics
from server.engine.scheduler import Scheduler
from server.engine.scoring import Scorer
from server.engine.watchdog import Watchdog

POSITIONS = {"cpu": 512, "cuda": 16384}
"""In one step, where no number is set. On a CPU more positions make a step longer for every request
in it, but up to some hundreds each of them costs less (``benchmarks/step_positions.py``); a GPU is
idle below thousands.
"""
COMPANY = {"cpu": 8.0, "cuda": math.inf}
"""So many times the work of the first may others in its step ask for. For the same reason: on a CPU
a short request would pay for each position of a long one that rides along
(``benchmarks/fairness.py``).
"""


def engine_of(
    checkpoint: Checkpoint,
    settings: Settings,
    metrics: Metrics | None = None,
    watchdog: Watchdog | None = None,
) -> Engine:
    """An engine for a checkpoint, not started yet. Engines of one server share their metrics."""
    positions = settings.max_positions or POSITIONS[checkpoint.device.type]
    scheduler = Scheduler(
        settings.max_waiting,
        settings.max_running,
        positions,
        settings.max_backlog,
        company=COMPANY[checkpoint.device.type],
    )
    scorer = Scorer(
        checkpoint,
        settings.max_waiting,
        settings.score_positions or min(positions, 1024),
        settings.max_backlog,
    )
    deadlines = Deadlines(settings.queue_seconds or math.inf, settings.request_seconds or math.inf)
    return Engine(
        checkpoint,
        scheduler,
        scorer,
        metrics or Metrics(),
        watchdog or Watchdog(settings.watchdog_seconds),
        deadlines,
    )
