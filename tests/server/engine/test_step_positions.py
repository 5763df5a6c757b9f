"""The number of positions in a step follows from the measured pace."""

from __future__ import annotations

import asyncio

import pytest

from server.engine.engine import Deadlines, Engine
from server.engine.events import Done
from server.engine.needs import step_bytes
from server.engine.position_limits import (
    LEAST_BY_MEMORY,
    position_limit,
    position_limits,
    within,
)
from server.engine.step_timer import PositionLimit
from tests.support.engine import request, result
from tests.support.serving import make_engine, settings_of


@pytest.mark.parametrize(
    ("pace", "positions"), [(1e-3, 1024), (5e-5, 2000), (1e-6, 16384), (0.0, 16384)]
)
def test_a_limit_by_time_is_that_time_over_the_pace_between_its_bounds(pace, positions):
    assert PositionLimit(16384, 0.1, 1024).at(pace) == positions


def test_a_limit_without_a_time_is_the_same_at_any_pace():
    assert {PositionLimit(512).at(pace) for pace in (0.0, 1e-9, 1.0)} == {512}


def test_an_open_limit_is_what_the_free_memory_allows(tiny):
    asked = position_limit(settings_of(), "cpu")
    needs = tiny.needs
    for positions in (100, 511):
        room = step_bytes(needs, positions, 4, "cpu")
        limit = within(asked, tiny, room)
        assert (limit.most, limit.by_memory) == (positions, True)
        assert within(asked, tiny, room - 1).most == positions - 1
    assert within(asked, tiny, 0).most == LEAST_BY_MEMORY
    assert within(asked, tiny, step_bytes(needs, asked.most, 4, "cpu")) == asked


def test_a_limit_that_was_set_is_taken_whatever_is_free(tiny):
    given = settings_of(max_positions=2**40)
    assert position_limits([tiny], given) == [PositionLimit(2**40)]
    free = [limit.by_memory for limit in position_limits([tiny, tiny], settings_of())]
    assert free == [False, False]  # a tiny model's step fits


async def test_an_engine_whose_steps_may_take_no_time_runs_one_request_at_a_time(tiny):
    parts = make_engine(tiny)
    limit = PositionLimit(most=10_000, seconds=1e-9)
    rest = (parts.scorer, parts.metrics, parts.watchdog, Deadlines(), limit, parts.caching)
    engine = Engine(tiny, parts.scheduler, *rest)
    engine.start()
    try:
        done = await asyncio.gather(*(result(engine.submit(request(i))) for i in range(4)))
        assert all(isinstance(d, Done) for d in done)
        sizes = engine.metrics.render().decode()
        assert 'step_batch_size_bucket{le="1.0"}' in sizes
        counted = {
            line.split()[0]: float(line.split()[1])
            for line in sizes.splitlines()
            if line.startswith("xdlm_step_batch_size")
        }
        assert (
            counted['xdlm_step_batch_size_bucket{le="1.0"}']
            == (counted["xdlm_step_batch_size_count"])
        )
    finally:
        engine.stop()
