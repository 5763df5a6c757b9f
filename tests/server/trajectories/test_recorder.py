"""A recorder on an event loop of the test's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from server.api.context import State
from server.api.jobs.chunks import ChunkJob
from server.api.jobs.recorder import Recorder
from server.api.routes.completions import prompts_of
from server.api.routes.trajectories import TrajectoryBody, TrajectoryFormat
from server.api.schemas.responses.trajectories import FinishedChoice, Origin
from server.engine.events import Failed
from server.trajectories.recording import OVERHEAD
from server.trajectories.store import TrajectoryStore
from tests.support.http import BODY
from tests.support.serving import make_engine, settings_of

ORIGIN: Origin = {"request_id": "", "request": {}, "mask": None, "ends": [], "image": None}


@pytest.fixture
async def state(tiny) -> AsyncIterator[State]:
    engine = make_engine(tiny)
    engine.start()
    yield State.around([engine], settings_of(), TrajectoryStore(1 << 20, 60))
    engine.stop()


def recorder(state: State, form: TrajectoryFormat | None = None, **chosen) -> Recorder:
    body = TrajectoryBody(**{**BODY, **chosen})
    job = ChunkJob(state, body, form or TrajectoryFormat(), prompts_of(state, body))
    return Recorder(state, job)


async def test_no_step_is_merged_however_late_it_is_taken(state):
    recording = recorder(state, steps=60).start(ORIGIN)
    time.sleep(0.6)  # the loop is busy with something else
    names = [record.name async for _, record in recording.follow()]
    assert names.count("diffusion.step") == 62


async def test_a_run_can_end_before_it_begins(state):
    """The store has no room for its first record."""
    state = State.around([state.engine], state.settings, TrajectoryStore(100, 60))
    recording = recorder(state, steps=4000, n=3).start(ORIGIN)
    told = [record async for _, record in recording.follow()]
    assert [record.name for record in told] == ["diffusion.failed"]
    assert json.loads(told[0].data)["error"]["code"] == "too_large"
    assert recording.records == []
    scheduler, deadline = state.engine.scheduler, time.monotonic() + 2
    while scheduler.running or scheduler.waiting:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert state.trajectories.bytes == 0


async def choices_of(state: State, **chosen) -> tuple[int, list[int], list[int]]:
    """Bytes that a run takes before its end; of each choice the lower bound and the size."""
    body = TrajectoryBody(**{**BODY, "max_tokens": 60, "seed": 5, **chosen})
    job = ChunkJob(state, body, TrajectoryFormat(), prompts_of(state, body))
    subscriptions = job.submit()
    readers = await job.readers(subscriptions)
    for reader, subscription in zip(readers, subscriptions, strict=True):
        async for event in subscription:
            assert not isinstance(event, Failed)
            reader.take(event)
    recording = recorder(state, max_tokens=60, seed=5, **chosen).start(ORIGIN)
    records = [record async for _, record in recording.follow()]
    assert records[-1].name == "diffusion.completed"
    before = recording.size - OVERHEAD - len(records[-1].data)
    sizes = [len(orjson.dumps(choice)) async for choice in job.choices(readers)]
    return before, [reader.least_bytes() for reader in readers], sizes


@pytest.mark.parametrize("chosen", [{}, {"logprobs": 0}, {"logprobs": 20, "n": 2}, {"n": 3}])
async def test_the_least_size_of_a_choice_is_below_its_size(state, chosen):
    _, least, sizes = await choices_of(state, **chosen)
    assert all(0 < low <= size for low, size in zip(least, sizes, strict=True))
    if chosen.get("logprobs") == 20:
        assert sum(sizes) < 8 * sum(least)


class CountedFormat(TrajectoryFormat):
    """Counts the choices that are built."""

    built = 0

    def choice(self, *given: Any, **named: Any) -> FinishedChoice:
        self.built += 1
        return super().choice(*given, **named)


@pytest.mark.parametrize("room, built", [("too little", 0), ("for two", 3), ("enough", 4)])
async def test_an_end_that_the_store_cannot_hold_is_not_built(state, room, built):
    """Counts refuse it before any choice is built, or else the size of those encoded so far."""
    chosen = {"logprobs": 20, "n": 4, "steps": 3}
    before, least, sizes = await choices_of(state, **chosen)
    bytes_ = {"too little": sum(least) - 500, "for two": sum(sizes[:2]) + 500}
    bytes_ |= {"enough": sum(sizes) + 2000}
    store = TrajectoryStore(before + bytes_[room], 60)
    state = State.around([state.engine], state.settings, store)
    form = CountedFormat()
    recording = recorder(state, form, max_tokens=60, seed=5, **chosen).start(ORIGIN)
    *_, last = [record async for _, record in recording.follow()]
    assert form.built == built
    if room == "enough":
        assert last.name == "diffusion.completed"
        return
    assert last.name == "diffusion.failed"
    assert json.loads(last.data)["error"]["code"] == "too_large"
    assert store.bytes <= store.max_bytes
