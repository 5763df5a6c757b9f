"""The scheduler alone: plain data in, plain data out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.scheduler import QueueFull, Scheduler, Work


def make(patience: float = 4, **limits) -> Scheduler:
    chosen = {"max_waiting": 4, "max_running": 3, "max_positions": 100, "max_backlog": 10**9}
    return Scheduler(**(chosen | limits), patience=patience)


def begun(s: Scheduler) -> list:
    return list(s.begin_step().begin)


def test_without_patience_it_is_first_come_first_served():
    s = make(patience=0)
    for key, positions in (("a", 60), ("b", 50), ("c", 10), ("d", 10)):
        s.submit(key, Work(positions, 5))
    with pytest.raises(QueueFull):
        s.submit("e", Work(1, 1))
    assert begun(s) == ["a"]  # b does not fit beside a, and nobody overtakes it
    s.remove("a")
    assert set(begun(s)) == {"b", "c", "d"}
    assert (s.running, s.waiting) == (3, 0)


def test_a_short_request_goes_first_and_the_long_one_goes_on():
    s = make()
    s.submit("long", Work(80, 100))
    assert begun(s) == ["long"]
    for _ in range(10):
        assert not s.begin_step().pause
    s.submit("short", Work(40, 3))
    change = s.begin_step()
    assert change.begin == ["short"] and change.pause == ["long"]
    assert (s.running, s.waiting) == (1, 1)
    assert s.backlog == 80 * 89 + 40 * 2
    s.remove("short")
    assert s.begin_step().resume == ["long"]
    assert s.backlog == 80 * 88


def test_what_fits_beside_the_first_runs_too():
    s = make()
    for key, positions in (("a", 50), ("b", 90), ("c", 50)):
        s.submit(key, Work(positions, 10))
    assert set(begun(s)) == {"a", "c"}


def test_far_longer_ones_stay_away_though_there_is_room():
    s = make(max_work_ratio=8.0, patience=2)
    s.submit("short", Work(10, 4))
    s.submit("longer", Work(10, 32))
    s.submit("long", Work(10, 33))
    assert set(begun(s)) == {"short", "longer"}
    s.remove("short")
    assert begun(s) == ["long"]
    s.submit("short", Work(10, 4))
    change = s.begin_step()
    assert change.begin == ["short"] and change.pause == ["long"]
    for _ in range(66):  # but not for ever
        change = s.begin_step()
    assert s.running == 3


def test_equal_requests_are_not_set_aside_for_each_other():
    s = make(max_waiting=9)
    for key in "abcdefgh":
        s.submit(key, Work(100, 50))
    order = []
    while s.running or s.waiting:
        change = s.begin_step()
        assert not change.pause and not change.resume
        order += change.begin
        for _ in range(49):
            assert not s.begin_step().pause
        s.remove(order[-1])
    assert order == list("abcdefgh")


def test_requests_that_are_about_alike_go_about_in_order():
    """Sixteen clients ask again and again; nobody waits for many who came later."""
    s: Scheduler[int] = make(patience=16, max_waiting=99, max_running=1)
    count, overtaken = 16, []
    for key in range(count):
        s.submit(key, Work(50 + key, 10))
    for _ in range(200):
        first, *_ = s.begin_step().begin
        for _ in range(9):
            assert not s.begin_step().pause
        s.remove(first)
        overtaken.append(max(0, count - 16 - first))
        s.submit(count, Work(50 + 7 * count % 16, 10))
        count += 1
    assert max(overtaken) < 5


def test_of_two_long_requests_the_longer_keeps_its_place():
    """All three are long and came together, and there is room for two."""
    s = make(patience=16, max_positions=20)
    for key, steps in (("a", 30), ("b", 40), ("c", 30)):
        s.submit(key, Work(10, steps))
    assert set(begun(s)) == {"b", "a"}
    s.submit("d", Work(10, 2))  # a short one goes first, and the longest stays beside it
    change = s.begin_step()
    assert list(change.begin) == ["d"] and list(change.pause) == ["a"]


def test_a_canvas_above_the_budget_runs_alone():
    s = make()
    s.submit("huge", Work(500, 1))
    s.submit("small", Work(1, 1000))
    assert begun(s) == ["huge"]
    s.remove("huge")
    assert begun(s) == ["small"]


def test_removing_a_waiting_request():
    s = make(max_running=1)
    for key in "abc":
        s.submit(key, Work(1, 1))
    assert begun(s) == ["a"]
    assert s.remove("b") and not s.remove("b") and not s.remove("nobody")
    assert s.remove("a")
    assert begun(s) == ["c"]


def test_the_queue_is_bounded_by_work_too():
    s = make(max_backlog=1000, max_running=1)
    s.submit("far too much", Work(100, 100))  # taken: nothing waits
    assert not s.has_room([Work(1, 1)])
    assert begun(s) == ["far too much"]
    s.submit("a", Work(10, 50))
    assert s.has_room([Work(10, 50)]) and not s.has_room([Work(10, 51)])
    assert not s.has_room([Work(10, 25), Work(10, 26)])
    s.remove("a")
    assert s.has_room([Work(10, 51)])


def test_late_ones_are_named_and_gone():
    s = make(max_running=1)
    for i, key in enumerate("abc"):
        s.submit(key, Work(1, 1), now=float(i))
    assert begun(s) == ["a"]
    assert s.expire(1.5, -1.0) == (["b"], [])
    assert s.expire(1.5, 1.5) == ([], ["a"])
    assert s.drain() == ["c"] and (s.running, s.waiting, s.backlog) == (0, 0, 0)


works = st.builds(Work, st.integers(1, 120), st.integers(1, 12))
events = st.lists(st.tuples(works, st.booleans(), st.integers(0, 6)), max_size=50)


@given(events, st.sampled_from([0.0, 1.0, 4.0]))
def test_limits_hold_and_everyone_is_served_once(events, patience):
    """Requests come, some are cancelled, all others take exactly their steps."""
    s: Scheduler[int] = make(patience=patience, max_waiting=1000, max_running=5)
    left: dict[int, int] = {}
    sizes: dict[int, Work] = {}
    running: set[int] = set()
    started: set[int] = set()

    def step() -> None:
        change = s.begin_step()
        assert not started & set(change.begin) and set(change.resume) <= started - running
        assert set(change.pause) <= running
        started.update(change.begin)
        running.difference_update(change.pause)
        running.update(change.begin, change.resume)
        assert len(running) == s.running <= 5 and s.running + s.waiting == len(left)
        assert len(running) <= 1 or sum(sizes[k].positions for k in running) <= 100
        assert running or not left
        for key in list(running):
            left[key] -= 1
            if not left[key]:
                forget(key)

    def forget(key: int) -> None:
        assert s.remove(key)
        running.discard(key)
        del left[key]

    for i, (work, cancel, steps) in enumerate(events):
        sizes[i], left[i] = work, work.steps
        s.submit(i, work)
        for _ in range(steps):
            step()
        if cancel and left:
            forget(next(iter(left)))
    for _ in range(sum(left.values()) + 1):
        if left:
            step()
    assert not left and (s.running, s.waiting, s.backlog) == (0, 0, 0)


@given(st.integers(1, 40), st.integers(1, 100), st.sampled_from([0, 1, 4]))
def test_a_long_request_is_not_starved_by_short_ones(steps, positions, patience):
    """However many short ones come, it goes on once its patience is over, in order."""
    s: Scheduler[object] = make(patience=patience, max_waiting=10**6, max_running=1)
    s.submit("long", Work(positions, steps))
    taken, step, current = 0, 0, [""]
    while taken < steps:
        s.submit(step, Work(1, 1))  # one each step: all that the engine can do
        change = s.begin_step()
        step += 1
        current = [*change.begin, *change.resume] or current
        if current == ["long"]:
            taken += 1
        else:
            s.remove(current[0])
        assert step <= (patience + 1) * steps + 8
