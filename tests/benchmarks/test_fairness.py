"""The simulated scheduler against first come, first served step batching."""

from __future__ import annotations

import pytest

from benchmarks.fairness import MIXED_COSTS, continuous, mixed_steps, quantile, step_batching
from server.engine.factory import MAX_WORK_RATIO


def test_step_batching_serves_in_order_of_arrival_and_batches_equal_steps():
    assert step_batching([4, 8, 4, 8], 1.0, 0.0) == [4.0, 4.0, 12.0, 12.0, 12.0]
    assert step_batching([8, 4, 4], 1.0, 0.0) == [8.0, 12.0, 12.0, 12.0]


@pytest.mark.parametrize("cost", MIXED_COSTS.values(), ids=list(MIXED_COSTS))
def test_mixed_steps_halve_the_median_and_long_requests_do_not_pay_for_it(
    cost: tuple[float, float],
):
    """Bounds for 1,000 requests of one seed; the simulation has no other chance in it."""
    steps = mixed_steps(1000, 1)
    *first, whole = step_batching(steps, cost[0], cost[1])
    *ours, ours_whole = continuous(steps, cost[0], cost[1], MAX_WORK_RATIO["cpu"])
    assert len(ours) == len(first) == len(steps)
    assert quantile(ours, 0.5) < 0.55 * quantile(first, 0.5)
    assert quantile(ours, 0.95) < 1.1 * quantile(first, 0.95)
    assert max(ours) < 1.3 * max(first) and ours_whole < whole / 1.05
