"""A recorder on an event loop of the test's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from server.api.context import State
from server.api.jobs.recorder import Recorder
from server.api.jobs.text import Generation
from server.api.routes.completions import prompts_of
from server.api.routes.trajectories import TrajectoryBody, TrajectoryForm
from server.trajectories.store import TrajectoryStore
from tests.server.conftest import make_engine, settings_of
from tests.server.test_http import BODY


@pytest.fixture
async def state(tiny) -> AsyncIterator[State]:
    engine = make_engine(tiny)
    engine.start()
    yield State.around([engine], settings_of(), TrajectoryStore(1 << 20, 60))
    engine.stop()


def recorder(state: State, **chosen) -> Recorder:
    body = TrajectoryBody(**{**BODY, **chosen})
    return Recorder(state, Generation(state, body, TrajectoryForm, prompts_of(state, body)))


async def test_no_step_is_merged_however_late_it_is_taken(state):
    recording = recorder(state, steps=60).start()
    time.sleep(0.6)  # the loop is busy with something else
    names = [record.name async for _, record in recording.follow()]
    assert names.count("diffusion.step") == 62


async def test_a_run_can_end_before_it_begins(state):
    """The store has no room for its first record."""
    state = State.around([state.engine], state.settings, TrajectoryStore(100, 60))
    recording = recorder(state, steps=4000, n=3).start()
    told = [record async for _, record in recording.follow()]
    assert [record.name for record in told] == ["diffusion.failed"]
    assert json.loads(told[0].data)["error"]["code"] == "too_large"
    assert recording.records == []
    scheduler, deadline = state.engine.scheduler, time.monotonic() + 2
    while scheduler.running or scheduler.waiting:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert state.trajectories.bytes == 0
