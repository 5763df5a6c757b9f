"""Extents of positions and slots of numbers, as canvases come and go."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import numpy as np
import pytest

from server.engine.arena import Arena, places_of
from server.engine.batches import Batches
from server.engine.events import Done, Failed
from server.engine.stream import Subscription
from server.engine.table import Table
from tests.support.engine import request


def admitted(arena: Arena, *lengths: int) -> list[int]:
    sizes = np.array(lengths)
    total = int(sizes.sum())
    return arena.admit(sizes, np.arange(total), np.ones(total, dtype=bool)).tolist()


def released(arena: Arena, *extents: tuple[int, int]) -> None:
    starts, lengths = np.array(extents).T
    arena.release(starts, lengths)


def test_a_canvas_takes_the_first_extent_that_is_long_enough():
    arena = Arena(100)
    assert admitted(arena, 10, 20, 30) == [0, 10, 30]
    released(arena, (10, 20))
    assert admitted(arena, 21, 5, 15) == [60, 10, 15]
    released(arena, (0, 10), (10, 5))  # they are one extent now
    assert admitted(arena, 15) == [0]


def test_an_arena_without_a_free_extent_doubles_and_refuses_nobody():
    arena = Arena(8)
    assert admitted(arena, 5) == [0]
    assert admitted(arena, 100, 3) == [5, 105]
    assert len(arena.tokens) == 128
    assert arena.tokens[:5].tolist() == [0, 1, 2, 3, 4]


def test_canvases_that_come_and_go_keep_their_own_positions():
    """Two hundred random arrivals and departures: nothing overlaps, nothing is lost."""
    rng, arena = random.Random(0), Arena(16)
    alive: dict[int, np.ndarray] = {}
    most = 0
    for turn in range(200):
        if alive and rng.random() < 0.45:
            start = rng.choice(list(alive))
            released(arena, (start, len(alive.pop(start))))
        else:
            lengths = np.array([rng.randint(1, 40) for _ in range(rng.randint(1, 3))])
            ids = np.full(int(lengths.sum()), turn)
            starts = arena.admit(lengths, ids, ids > 0)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                alive[start] = np.full(length, turn)
        for start, ids in alive.items():
            assert np.array_equal(arena.tokens[start : start + len(ids)], ids)
        most = max(most, sum(map(len, alive.values())))
    assert len(arena.tokens) <= 4 * most
    for start, ids in alive.items():
        released(arena, (start, len(ids)))
    assert admitted(arena, len(arena.tokens)) == [0]  # it is one free extent again


def test_an_admission_that_fails_changes_nothing():
    arena = Arena(16)
    admitted(arena, 4)
    with pytest.raises(ValueError):
        arena.admit(np.array([3, 90]), np.arange(5), np.ones(93, dtype=bool))
    assert len(arena.tokens) == 16
    assert admitted(arena, 12) == [4]


def test_positions_of_extents_follow_one_another():
    assert places_of(np.array([7, 0, 20]), np.array([2, 3, 0])).tolist() == [7, 8, 0, 1, 2]


def test_slots_keep_their_numbers_while_a_table_grows():
    table = Table()
    kept: dict[int, int] = {}
    for turn in range(40):
        values = np.arange(3) + 10 * turn
        slots = table.put({"n": values, "x": values / 7, "odd": values % 2 == 1})
        kept |= zip(slots.tolist(), values.tolist(), strict=True)
        gone = slots.tolist()[turn % 3]
        table.drop([gone])
        del kept[gone]
        found = table.take(np.array(list(kept)))
        assert found["n"].tolist() == list(kept.values())
        assert found["x"].tolist() == [n / 7 for n in kept.values()]
        assert found["odd"].tolist() == [n % 2 == 1 for n in kept.values()]
    table["n"][np.array(list(kept))] += 1
    assert table.take(np.array(list(kept)))["n"].tolist() == [n + 1 for n in kept.values()]


def test_a_table_without_one_of_its_columns_changes_nothing():
    table = Table()
    (first,) = table.put({"n": np.array([5]), "x": np.array([0.5])}).tolist()
    with pytest.raises(KeyError):
        table.put({"n": np.array([6])})
    assert table.take(np.array([first]))["n"].tolist() == [5]


def subscribed(i: int, **choices) -> Subscription:
    return Subscription(request(i, **choices), lambda *_: None, lambda _: None, time.monotonic())


def ends(batches: Batches, *begun: Subscription) -> dict[Subscription, Done | Failed]:
    """The last events of requests that run to their end; ``begun`` begin after a step."""
    found, waiting = {}, list(begun)
    while batches or waiting:
        stepped = batches.step(0.0, 1e-3)
        for owner, event in [*stepped.ended, *batches.begin(waiting)]:
            assert isinstance(event, Done | Failed)
            found[owner] = event
        waiting = []
    return found


def test_a_request_that_cannot_begin_leaves_the_others_as_they_are(tiny):
    def good() -> list[Subscription]:
        return [subscribed(i, sampler=s, steps=8) for i, s in enumerate(("topk", "ancestral") * 2)]

    plain, mixed = Batches(tiny), Batches(tiny)
    alone, beside, late = good(), good(), subscribed(9, sampler="topk")
    plain.begin(alone)
    mixed.begin(beside)
    bad = subscribed(5, sampler="topk")
    bad.request = replace(bad.request, editable=bad.request.editable[:-1])
    found, expected = ends(mixed, bad, late), ends(plain)
    assert isinstance(found[bad], Failed) and isinstance(found[late], Done)
    for one, other in zip(alone, beside, strict=True):
        before, after = expected[one], found[other]
        assert isinstance(before, Done) and isinstance(after, Done)
        assert before.tokens == after.tokens
