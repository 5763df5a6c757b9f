"""What the routes share, kept on the application."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from models.checkpoint import Checkpoint
from sampler.params import SamplingParams
from server.config import Settings
from server.engine import Engine
from server.trajectories import Trajectories


@dataclass(frozen=True)
class State:
    """The engine, what requests are checked against, and what was recorded."""

    engine: Engine
    settings: Settings
    trajectories: Trajectories
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, request: Request) -> State:
        """The application's state, typed."""
        return request.app.state.xdlm

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that is served."""
        return self.engine.checkpoint

    @property
    def defaults(self) -> dict[str, Any]:
        """What requests get when they do not choose."""
        steps = self.checkpoint.defaults.get("steps", SamplingParams.steps)
        return {**self.checkpoint.defaults, "steps": min(steps, self.settings.max_steps)}
