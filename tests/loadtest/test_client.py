"""The client against a stub whose every delay is known and logged."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from loadtest.cli_types import loads
from loadtest.client import open_session
from loadtest.plan import Plan, Planned, Setting, Workload
from loadtest.records import GAVE_UP, Cell
from loadtest.sweep import display, run_cell
from tests.loadtest.conftest import Stubbed, stub_server
from tests.support.effort import count

TRIES = 3


def spared(cell: Cell) -> float:
    """Seconds that a busy machine explains: none, unless it woke the client late. The watch that
    tells so is the one that warns in reports; its own timer is good to a millisecond.
    """
    lag = cell.summary.lag_p99_ms / 1e3
    return 0.0 if lag < 2e-3 else 2 * lag


def plan_of(load: str, duration: float, warmup: float = 0.05, **fields) -> Plan:
    kind, value = load[0], load[1:]
    return Plan(
        workload=Workload("completions", "stub", ("Once",), 8, fields),
        settings=(),
        loads=loads(value, None) if kind == "c" else loads(None, value),
        repeats=1,
        warmup=warmup,
        duration=duration,
        drain=3,
        timeout=5,
        max_requests=1000,
    )


def run(plan: Plan, url: str, name: str = "run") -> Cell:
    async def work() -> Cell:
        planned = Planned(Setting(4, None), plan.loads[0], 0)
        async with open_session(url, None) as session:
            with display(Console(quiet=True)) as bars:
                return await run_cell(session, plan, name, planned, bars)

    return asyncio.run(work())


@pytest.mark.parametrize("load", ["c4", "r40"])
def test_percentiles_are_those_of_the_server(stub: Stubbed, load):
    """Latency and first text: within 2 ms and 2 % of what the stub says that it did."""
    told = ""
    for attempt in range(TRIES):
        plan = plan_of(load, count(2, 3), first_ms=20, rest_ms=30, spread_ms=12)
        cell = run(plan, stub.url, f"p{load}{attempt}")
        done = stub.requests()
        counted = [r for r in cell.records if not r.warm]
        assert len(counted) > 25 and all(r.failure is None for r in counted)
        theirs = [done[r.id] for r in counted]
        pairs = [
            ([r.latency for r in counted], [d["ended"] - d["arrived"] for d in theirs]),
            (
                [(r.settled or 0) - r.intended for r in counted],
                [d["first"] - d["arrived"] for d in theirs],
            ),
        ]
        off = [
            np.percentile(ours, at) - 1.02 * np.percentile(stubs, at)
            for ours, stubs in pairs
            for at in (50, 90, 95)
        ]
        assert all(np.percentile(a, 1) >= np.percentile(b, 1) for a, b in pairs)
        if max(off) < 2e-3 + spared(cell):
            return
        told = f"off by {1e3 * max(off):.1f} ms beyond 2 %, {cell.summary}"
    pytest.fail(told)


def test_requests_are_sent_when_they_are_due(stub: Stubbed):
    told = ""
    for attempt in range(TRIES):
        plan = plan_of("r60", count(1, 2), first_ms=5)
        cell = run(plan, stub.url, f"due{attempt}")
        assert [r.intended for r in cell.records] == plan.arrivals(plan.loads[0], 0)
        late = [r.sent - r.intended for r in cell.records]
        assert min(late) >= 0
        if np.percentile(late, 95) < 1.5e-3 + spared(cell):
            return
        told = f"p95 of lateness {1e3 * np.percentile(late, 95):.2f} ms, {cell.summary}"
    pytest.fail(told)


def test_a_stall_shows_in_the_latencies_of_all_who_were_due_in_it(tmp_path):
    """No coordinated omission: the loop goes on while the server stands still."""
    with stub_server(tmp_path, 1.0, 1.2) as stub:
        cell = run(plan_of("r40", 3, first_ms=2), stub.url)
        (stall,) = [entry["stalled"] for entry in stub.entries() if "stalled" in entry]
        done = stub.requests()
    # both read one clock, from zeros that the quickest request ties together
    zero = min(done[r.id]["arrived"] - r.sent for r in cell.records)
    begin, end = (at - zero for at in stall)
    due = [r for r in cell.records if begin + 0.02 <= r.intended < end]
    assert len(due) > 30  # 47 are expected; fewer than 31 would be chance once in 200
    for record in due:
        assert record.latency >= end - record.intended - 0.02
    slow = np.array([r.latency for r in cell.records if not r.warm])
    assert np.percentile(slow, 95) > 0.8


@pytest.mark.slow
def test_a_closed_loop_hides_the_same_stall(tmp_path):
    """Why the open loop is there: one request of many sees the second in which nothing moved."""
    with stub_server(tmp_path, 1.0, 1.2) as stub:
        cell = run(plan_of("c1", count(23, 30) / 10, first_ms=2), stub.url)
    slow = [r for r in cell.records if r.latency > 0.5]
    assert len(slow) == 1 and len(cell.records) > 100


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("full", "HTTP 429 queue_full"),
        ("fails", "stream: not_finite"),
        ("babbles", "not JSON"),
        ("breaks", "cut"),
        ("stops", "cut"),
    ],
)
def test_failures_by_kind(stub: Stubbed, how, kind):
    plan = replace(plan_of("c2", 1, how=how), max_requests=6)
    cell = run(plan, stub.url, how)
    assert len(cell.records) == 6
    assert {r.failure for r in cell.records} == {kind}


def test_who_does_not_answer_is_timed_out_or_given_up(stub: Stubbed):
    plan = replace(plan_of("c2", 0.3, how="hangs"), timeout=0.5, drain=3)
    assert {r.failure for r in run(plan, stub.url, "slow").records} == {"timeout"}
    plan = replace(plan, timeout=30, drain=0.2)
    records = run(plan, stub.url, "slower").records
    assert len(records) == 2 and {r.failure for r in records} == {GAVE_UP}
    assert all(r.settled is not None and 0.4 < r.latency < 3 for r in records)


def test_run_without_a_server_raises_oserror():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError):
            run(plan_of("c1", 0.2), url)


def test_cell_sends_no_more_than_its_count(stub: Stubbed):
    for load in ("c4", "r500"):
        plan = replace(plan_of(load, 20, warmup=0.01), max_requests=25)
        began = time.monotonic()
        cell = run(plan, stub.url, load)
        assert len(cell.records) == 25 and time.monotonic() - began < 5
        assert cell.summary.seconds < 5


def test_the_same_arrivals_for_all_settings_and_others_for_each_repeat():
    plan = plan_of("r20", 10, warmup=1)
    load = plan.loads[0]
    assert plan.arrivals(load, 0) == plan.arrivals(load, 0) != plan.arrivals(load, 1)
    many = [plan.arrivals(load, repeat) for repeat in range(200)]
    gaps = np.concatenate([np.diff(due) for due in many])
    # mean and deviation of an exponential are both 1/20; 44 000 gaps: 5 % is over 10 sigma
    assert gaps.mean() == pytest.approx(0.05, rel=0.05)
    assert gaps.std() == pytest.approx(0.05, rel=0.05)
    assert all(due[0] >= -1 and due[-1] < 10 for due in many)


def test_bodies_are_the_same_in_every_cell():
    plan = plan_of("c1", 1, ignore_eos=True)
    a, b = (plan.workload.body(Setting(s, 0.1), 2, 7) for s in (4, 8))
    assert a["steps"] == 4 and b["steps"] == 8 and a["ignore_eos"]
    assert {**a, "steps": 0} == {**b, "steps": 0}
    assert json.dumps(a) == json.dumps(plan.workload.body(Setting(4, 0.1), 2, 7))
