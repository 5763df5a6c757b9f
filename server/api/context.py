"""State that the routes of an application share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request

from models.checkpoints.load import Checkpoint
from server.config import Settings
from server.constraints.compiler import Constraints, Limits
from server.engine.engine import Engine
from server.engine.request_params import default_of
from server.trajectories.picture_process import Pictures
from server.trajectories.store import TrajectoryStore


@dataclass(frozen=True)
class State:
    """One of the engines, what its requests are checked against, and what was recorded.

    Attributes:
        engine: of the model that a request has chosen; the first until then.
        settings: of the server.
        trajectories: recordings, of all models.
        engines: of all models, by name; the first is the one that requests get.
        id_prefix: first digits of the ids of this server's trajectories.
        created: seconds since 1970.
        pictures: draws them, one at a time.
        constraints: compiled ones, of all models.
    """

    engine: Engine
    settings: Settings
    trajectories: TrajectoryStore
    engines: Mapping[str, Engine]
    id_prefix: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    pictures: Pictures = field(default_factory=Pictures)
    constraints: Constraints = field(default_factory=Constraints)

    @classmethod
    def around(
        cls,
        engines: Sequence[Engine],
        settings: Settings,
        trajectories: TrajectoryStore,
        id_prefix: str = "",
    ) -> State:
        """The state of an application with one engine or more."""
        by_name = {engine.checkpoint.info.name: engine for engine in engines}
        limits = Limits(
            settings.constraint_states,
            settings.constraint_transitions,
            settings.constraint_seconds,
            settings.max_constraints,
        )
        constraints = Constraints(limits)
        return cls(engines[0], settings, trajectories, by_name, id_prefix, constraints=constraints)

    def of_model(self, name: str) -> State:
        """The same, seen from another model.

        Raises:
            KeyError: there is none of this name.
        """
        return replace(self, engine=self.engines[name])

    @classmethod
    def of(cls, request: Request) -> State:
        """The application's state, typed."""
        return request.app.state.xdlm

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint of the model."""
        return self.engine.checkpoint

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of request parameters."""
        usual, most = self.checkpoint.defaults, self.settings.max_steps
        of_each = {
            sampler: own | ({"steps": min(own["steps"], most)} if "steps" in own else {})
            for sampler, own in usual.get("by_sampler", {}).items()
        }
        return {**usual, "steps": min(default_of(usual, "steps"), most), "by_sampler": of_each}
