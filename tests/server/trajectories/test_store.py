"""Recordings and the store that keeps them, with a clock of our own."""

from __future__ import annotations

import asyncio

import pytest

from server.http.negotiation import preferred
from server.trajectories.recording import OVERHEAD, Record, Recording
from server.trajectories.store import TrajectoryStore

FORMS = ("text/event-stream", "application/x-ndjson", "application/json")


def recording(id_: str, calls: list | None = None) -> Recording:
    told = [] if calls is None else calls
    return Recording(id_, lambda *why: told.append(why), lambda: None)


def written(store: TrajectoryStore, id_: str, size: int, now: float) -> Recording:
    """A finished recording of so many bytes."""
    made = recording(id_)
    store.begin(made)
    taken = made.append(Record("x", b"." * (size - OVERHEAD)), last=True)
    assert taken == made.size == size
    store.end(made, now)
    assert store.grew(taken, now) is None
    return made


def test_a_full_store_drops_the_first_to_end():
    store = TrajectoryStore(10_000, 60)
    made = [written(store, f"t{i}", 3000, float(i)) for i in range(3)]
    assert [store.get(f"t{i}", 3.0) for i in range(3)] == made and store.bytes == 9000
    last = written(store, "t3", 4500, 3.0)
    assert [store.get(f"t{i}", 3.0) for i in range(4)] == [None, None, made[2], last]
    assert store.bytes == 7500 and len(store) == 2


def test_one_that_is_larger_than_the_store_is_not_kept():
    store = TrajectoryStore(10_000, 60)
    written(store, "small", 1000, 0.0)
    written(store, "large", 10_001, 1.0)
    assert len(store) == 0 and store.bytes == 0


def test_age_counts_from_the_end():
    store = TrajectoryStore(10_000, 60)
    running = recording("slow")
    store.begin(running)
    first, second = written(store, "t0", 1000, 5.0), written(store, "t1", 1000, 30.0)
    assert store.get("t0", 65.0) is first and store.get("t0", 65.1) is None
    assert store.get("t1", 90.0) is second and store.bytes == 1000
    assert store.get("slow", 1e9) is running and len(store) == 1
    store.end(running, 1e9)
    assert store.get("slow", 1e9 + 60) is running and store.get("slow", 1e9 + 61) is None


def test_forgetting_makes_room():
    store = TrajectoryStore(10_000, 60)
    written(store, "t0", 1000, 0.0)
    store.forget("t0")
    assert store.get("t0", 0.0) is None and store.bytes == 0


def test_where_nothing_finished_is_left_the_largest_run_must_end():
    store = TrajectoryStore(10_000, 60)
    large, small = recording("large"), recording("small")
    for one in (small, large):
        store.begin(one)
    written(store, "done", 2000, 0.0)
    assert store.grew(large.append(Record("x", b"." * 7000)), 1.0) is None
    assert store.get("done", 1.0) is not None
    assert store.grew(small.append(Record("x", b"." * 1500)), 1.0) is None
    assert store.get("done", 1.0) is None  # made room
    assert store.grew(small.append(Record("x", b"." * 1500)), 1.0) is large
    store.end(large, 2.0)
    assert store.grew(0, 2.0) is None
    assert store.get("large", 2.0) is None and store.get("small", 2.0) is small


def test_nothing_is_written_after_the_end():
    calls: list = []
    one = recording("t", calls)
    one.cancel("a", "b")
    assert calls == [("a", "b")]
    one.append(Record("x", b"1"))
    one.append(Record("end", b"2"), last=True)
    assert one.append(Record("end", b"3"), last=True) == 0
    one.cancel("a", "b")
    assert [r.name for r in one.records] == ["x", "end"] and len(calls) == 1


async def test_followers_wait_and_read_all():
    one = recording("t")

    async def read(start: int) -> list[int]:
        return [n async for n, _ in one.follow(start)]

    one.append(Record("x", b""))
    stalled = one.follow()
    assert (await anext(stalled))[0] == 0
    readers = [asyncio.create_task(read(start)) for start in (0, 0, 1, 2, 3)]
    for i in range(4):
        await asyncio.sleep(0)
        one.append(Record("x", b""), last=i == 3)
    expected = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3, 4]]
    assert await asyncio.gather(*readers) == expected
    assert [n async for n, _ in stalled] == [1, 2, 3, 4]
    assert await read(5) == [] and await read(4) == [4]


def test_followers_are_counted():
    counts: list[int] = []
    one = Recording("t", lambda *_: None, lambda: counts.append(one.followers))
    with one.followed():
        with pytest.raises(ZeroDivisionError), one.followed():
            raise ZeroDivisionError
        assert one.followers == 1
    assert counts == [1, 2, 1, 0]


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", 0),
        ("*/*", 0),
        ("text/event-stream", 0),
        ("application/x-ndjson", 1),
        ("application/json", 2),
        ("APPLICATION/JSON", 2),
        ("application/*", 1),
        ("application/json, text/event-stream", 0),
        ("application/json, text/event-stream;q=0.5", 2),
        ("application/json ; q=0.2 ,\tapplication/x-ndjson; Q=0.3", 1),
        ("text/*;q=0.3, application/json;q=0.4, */*;q=0.5", 1),
        ("text/event-stream;q=0, */*", 1),
        ("text/event-stream;charset=utf-8", 0),
        ("application/json;version=1;q=0.1, text/*;q=0.2", 0),
        ("text/html, */*;q=0.001", 0),
        ("nonsense", 0),
        ("nonsense, application/json", 2),
        ("application/json;q=7", 2),
        ("text/html", None),
        ("text/html, application/xhtml+xml", None),
        ("*/*;q=0", None),
        ("application/json;q=0.000", None),
    ],
)
def test_the_form_is_the_one_that_is_liked_best(header, form):
    assert preferred(header, FORMS) == (None if form is None else FORMS[form])
