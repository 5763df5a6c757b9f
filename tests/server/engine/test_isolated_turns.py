"""One entry of the queue, or one thread beside another, cannot fail the engine for the others."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler.likelihood.monte_carlo import ScoreParams
from server.api.jobs.waiting import scored, together
from server.engine.factory import engine_of
from server.engine.scheduler import Scheduler, Work
from server.engine.score_request import ScoreRequest
from server.engine.scoring import ScoreTask
from server.http.errors import ApiError
from tests.support.http import post
from tests.support.serving import settings_of


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_work_of_no_positions_or_no_steps_is_scheduled_like_any_other(works):
    scheduler: Scheduler[int] = Scheduler(8, 8, 100, 10**9)
    for key, (positions, steps) in enumerate(works):
        scheduler.submit(key, Work(positions, steps))
    begun = set(scheduler.begin_step().begin)
    for _ in range(20):
        begun |= set(scheduler.begin_step().begin)
    assert begun == set(range(len(works)))


@pytest.mark.parametrize("choices", [{}, {"n": 2}, {"stream": True}, {"logprobs": 0}])
@pytest.mark.parametrize("prompt", [[[]], [[], []], [[5, 6], []]])
def test_an_echo_of_nothing_is_refused_by_name_and_others_are_answered(served, prompt, choices):
    empty = {"prompt": prompt, "echo": True, "max_tokens": 0, **choices}
    status, answer = post(served, **empty)
    assert (status, answer["error"]["param"]) == (400, "prompt")
    good = {"prompt": [5, 6], "max_tokens": 4}
    assert post(served, **good)[0] == 200


async def test_reading_the_scorer_while_texts_take_turns_raises_nothing(tiny):
    """Another thread takes turns and empties the list, as the engine and the watchdog do."""
    scorer = engine_of(tiny, settings_of(max_waiting=1000)).scorer
    loop, over, errors = asyncio.get_running_loop(), threading.Event(), []
    request = ScoreRequest([5, 6], [1], ScoreParams(samples=60_000, seed=1))

    def take_turns() -> None:
        try:
            while not over.is_set():
                scorer.advance()
        except Exception as error:
            errors.append(error)

    for _ in range(900):
        scorer.add(ScoreTask(request, loop.create_future()))
    thread = threading.Thread(target=take_turns)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert scorer.backlog > 0
            scorer.has_room(request.work)
    finally:
        sys.setswitchinterval(interval)
        over.set()
        thread.join()
    assert not errors
    assert len(scorer.drain()) == 900


async def test_a_refused_score_cancels_those_that_were_asked_for_with_it(tiny):
    engine = engine_of(tiny, settings_of(max_waiting=1))
    engine.start()
    try:
        long = ScoreRequest([5] * 200, [1], ScoreParams(samples=60_000, seed=1))
        with pytest.raises(ApiError) as refused:
            await together([scored(engine, long), scored(engine, long)])
        assert refused.value.status == 429
        until = time.monotonic() + 5
        while engine.scorer.waiting:
            assert time.monotonic() < until, "a score goes on that nobody waits for"
            await asyncio.sleep(0.01)
    finally:
        engine.stop()
