"""The scheduler alone: plain data in, plain data out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.scheduler import QueueFull, Scheduler


def test_first_come_first_served_within_the_budget():
    s: Scheduler[str] = Scheduler(max_waiting=4, max_running=3, max_positions=100)
    for key, positions in (("a", 60), ("b", 50), ("c", 10), ("d", 10)):
        s.submit(key, positions)
    with pytest.raises(QueueFull):
        s.submit("e", 1)
    assert s.admit() == ["a"]  # b does not fit beside a, and nobody overtakes it
    s.remove("a")
    assert s.admit() == ["b", "c", "d"]
    assert (s.running, s.waiting) == (3, 0)


def test_a_canvas_above_the_budget_runs_alone():
    s: Scheduler[str] = Scheduler(max_waiting=4, max_running=3, max_positions=100)
    s.submit("huge", 500)
    s.submit("small", 1)
    assert s.admit() == ["huge"]
    s.remove("huge")
    assert s.admit() == ["small"]


def test_removing_a_waiting_request():
    s: Scheduler[str] = Scheduler(max_waiting=4, max_running=1, max_positions=100)
    for key in "abc":
        s.submit(key, 1)
    assert s.admit() == ["a"]
    s.remove("b")
    s.remove("nobody")
    s.remove("a")
    assert s.admit() == ["c"]


@given(st.lists(st.tuples(st.integers(1, 120), st.booleans()), max_size=60))
def test_limits_hold_and_everyone_runs_in_order(work):
    s: Scheduler[int] = Scheduler(max_waiting=1000, max_running=5, max_positions=100)
    sizes, order, running = {}, [], []
    for i, (positions, finish) in enumerate(work):
        sizes[i] = positions
        s.submit(i, positions)
        joined = s.admit()
        order += joined
        running += joined
        assert len(running) <= 5
        assert len(running) == 1 or sum(sizes[r] for r in running) <= 100
        if finish and running:
            s.remove(running.pop(0))
    while s.running or s.waiting:
        joined = s.admit()
        order += joined
        running += joined
        s.remove(running.pop(0))
    assert order == sorted(sizes)
