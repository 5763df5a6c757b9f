"""How many replicas a model gets."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

SHRINK_SECONDS = 120.0  # a replica is taken away once so long fewer would have done


class ByWork:
    """As many replicas as hold the work that is left to ``target_seconds`` on each. More at once;
    fewer only after a while, since a model takes long to load.
    """

    def __init__(self, target_seconds: float) -> None:
        """The objective: a request that comes now waits about so long at most."""
        self._target = target_seconds

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number wanted, and what to remember until the next call."""
        told = (ctx.aggregated_metrics or {}).get("backlog_seconds", {})
        now = ctx.current_time or 0.0
        wanted = wanted_replicas(
            sum(told.values()),
            self._target,
            ctx.capacity_adjusted_min_replicas,
            ctx.capacity_adjusted_max_replicas,
        )
        if wanted >= ctx.target_num_replicas:
            return wanted, {}
        since = ctx.policy_state.get("low_since", now)
        if now - since < SHRINK_SECONDS:
            return ctx.target_num_replicas, {"low_since": since}
        return wanted, {}


def wanted_replicas(seconds: float, target: float, least: int, most: int) -> int:
    """Replicas for so many seconds of work, ``target`` on each, between two limits."""
    return min(max(math.ceil(seconds / target), least), most)
