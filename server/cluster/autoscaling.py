"""Autoscaling of a model's replicas by their backlog."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

SHRINK_SECONDS = 120.0  # a replica is removed after fewer would have sufficed for this time


class BacklogPolicy:
    """As many replicas as hold the work that is left to ``target_seconds`` on each. Ray Serve sees
    to the limits, and to ``SHRINK_SECONDS``: a model takes long to load.
    """

    def __init__(self, target_seconds: float) -> None:
        """``target_seconds``: longest wait to aim at for a new request."""
        self._target = target_seconds

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas, and an empty state."""
        told = (ctx.aggregated_metrics or {}).get("backlog_seconds", {})
        wanted = math.ceil(sum(told.values()) / self._target)
        least, most = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
        return min(max(wanted, least), most), {}
