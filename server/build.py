"""An engine with all its parts, as settings want it."""

from __future__ import annotations

from models.checkpoint import Checkpoint
from server.config import Settings
from server.engine import Engine
from server.metrics import Metrics
from server.scheduler import Scheduler
from server.scoring import Scorer


def engine_of(checkpoint: Checkpoint, settings: Settings) -> Engine:
    """An engine for a checkpoint, not started yet."""
    scheduler = Scheduler(settings.max_waiting, settings.max_running, settings.max_positions)
    scorer = Scorer(checkpoint, settings.max_waiting, settings.score_positions)
    return Engine(checkpoint, scheduler, scorer, Metrics())
