"""The simulation of routers: nothing is lost in it, and theory agrees where it has an answer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.router_fleet import Fleet
from benchmarks.router_policies import (
    asked_for_work,
    least_requests,
    least_work,
    power_of_two,
    round_robin,
)
from benchmarks.router_sim import simulate

POLICIES = [round_robin, least_requests, power_of_two, least_work(8), asked_for_work(3)]
MANY = (100_000, 100_000, 10**9)  # limits that nobody meets


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once_and_all_work_is_done(policy):
    fleet = Fleet(4, requests=1500)
    out, a = simulate(fleet, policy), fleet.arrivals
    assert np.isfinite(out.took).all()
    assert out.work == int((a.lasts * a.positions).sum())
    alone = a.lasts * [fleet.step_seconds(int(p)) for p in a.positions]
    assert (out.took >= alone - 1e-6).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_littles_law(policy):
    """Requests inside, as counted at reports, are the rate of arrivals times the time inside."""
    fleet = Fleet(8, requests=8000, report_seconds=0.25)
    out = simulate(fleet, policy)
    rate = fleet.requests / out.until
    assert np.mean(out.seen) == pytest.approx(rate * out.took.mean(), rel=0.03)


def test_one_replica_shares_itself_as_the_theory_says():
    """Requests of one size on one replica are M/G/1 with processor sharing: E[S] / (1 - load). The
    mean of so many correlated times has a relative deviation of about 6 %.
    """
    fleet = Fleet(1, 0.6, 20_000, positions=(256, 256), early=0.0, weights_seconds=0.0, limits=MANY)
    alone = fleet.arrivals.lasts.mean() * fleet.step_seconds(256)
    mean = simulate(fleet, round_robin).took.mean()
    assert mean == pytest.approx(alone / (1 - 0.6), rel=0.2)


def test_a_full_queue_refuses():
    out = simulate(Fleet(1, 3.0, 600, limits=(4, 4, 16384)), round_robin)
    assert np.isnan(out.took).any() and np.isfinite(out.took).any()
    assert out.p95 == np.inf and out.goodput < 0.5


def test_pulling_work_is_faster_than_round_robin():
    """The claim of the documentation, at a size that takes a second."""
    fleet = Fleet(8, requests=8000)
    assert simulate(fleet, asked_for_work(3)).p95 <= 0.7 * simulate(fleet, round_robin).p95
