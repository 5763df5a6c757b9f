"""An event that cannot be delivered, counted or scheduled fails its own request alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.engine import Engine
from server.engine.events import Done, Failed, GenerationRequest
from server.engine.factory import engine_of
from server.engine.scheduler import QueueFull, Scheduler, Work
from server.engine.stream import MAX_PENDING, Subscription
from server.engine.watchdog import Watchdog
from tests.support.engine import request, result, until_idle
from tests.support.serving import settings_of

BEYOND_FLOATS = 10**400


class NoAnswer:
    """A flag of a request that raises when it is read, which ``push`` does for a slow reader."""

    def __bool__(self) -> bool:
        raise LookupError("neither true nor false")


class OddWork(GenerationRequest):
    """A request whose work no float can hold."""

    @property
    def work(self) -> Work:
        return Work(len(self.tokens), BEYOND_FLOATS)


def unpushable(steps: int = 40) -> GenerationRequest:
    """A request whose events cannot be pushed once ``MAX_PENDING`` of them are unread."""
    flag: Any = NoAnswer()
    return replace(request(90, steps=steps, wants_steps=True, sampler="topk"), lossless=flag)


async def unread(subscription: Subscription) -> Done | Failed:
    """The last event, read only when all of them are there."""
    while not subscription.ended:
        await asyncio.sleep(0.005)
    return await result(subscription)


@pytest.fixture
async def engine(tiny) -> AsyncIterator[Engine]:
    """An engine that three incidents would end."""
    fatal: list[str] = []
    engine = engine_of(tiny, settings_of(), watchdog=Watchdog(10, fatal.append))
    engine.scheduler.max_backlog = BEYOND_FLOATS**3
    engine.start()
    yield engine
    engine.stop()
    assert not fatal


async def hurts_only(engine: Engine, bad: Callable[[], GenerationRequest], message: str) -> None:
    """Bad requests fail with a message; good ones give the bytes that they give alone."""
    good = [request(i, steps=12 + i, wants_steps=i % 2 == 0) for i in range(4)]
    alone = [await result(engine.submit(r)) for r in good]
    for _ in range(3):
        beside = [engine.submit(r) for r in good[:2]]
        one = engine.submit(bad())
        beside += [engine.submit(r) for r in good[2:]]
        failed = await unread(one)
        assert failed == Failed("internal", message)
        for before, subscription in zip(alone, beside, strict=True):
            together = await result(subscription)
            assert isinstance(before, Done) and isinstance(together, Done)
            assert together.tokens == before.tokens
        await until_idle(engine)
        assert engine.ready
    assert b'failure_total{code="internal"} 3.0' in engine.metrics.render()


async def test_row_35_a_step_that_cannot_be_pushed_fails_its_request_alone(engine):
    await hurts_only(engine, unpushable, "an event of the request could not be delivered")


async def test_row_35_an_end_that_cannot_be_pushed_fails_its_request_alone(engine):
    """``MAX_PENDING`` steps are unread when ``Done`` comes."""
    good = engine.submit(request(1, steps=30))
    failed = await unread(engine.submit(unpushable(steps=MAX_PENDING - 1)))
    assert isinstance(failed, Failed) and failed.code == "internal"
    assert isinstance(await result(good), Done)


async def test_row_35_a_request_that_cannot_be_counted_is_answered_like_the_others(engine):
    """Emptied tokens give a negative number of prompt tokens, which a counter refuses."""
    beside = engine.submit(request(1, steps=60))
    odd = engine.submit(request(2, steps=30, wants_steps=True))
    assert not isinstance(await anext(odd), Done | Failed)  # it has begun
    odd.request.tokens.clear()
    assert isinstance(await result(odd), Done) and isinstance(await result(beside), Done)


async def test_row_35_a_request_that_cannot_be_ranked_fails_alone(engine):
    def odd() -> GenerationRequest:
        plain = request(80)
        return OddWork(plain.tokens, plain.editable, plain.params)

    await hurts_only(engine, odd, "the request could not be scheduled")


NUMBERS = st.sampled_from([0, 1, 3, 2**63, BEYOND_FLOATS])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_row_35_requests_with_a_rank_begin_whatever_waits_beside_them(works):
    scheduler: Scheduler[int] = Scheduler(8, 8, 100, BEYOND_FLOATS**3)
    scheduler.submit_all([(key, Work(*work)) for key, work in enumerate(works)])
    begun, broken = set[int](), set[int]()
    for _ in range(len(works) * 20):
        change = scheduler.begin_step()
        begun |= set(change.begin)
        broken |= set(change.broken)
        for key in change.begin:
            scheduler.remove(key)
        assert scheduler.expire(-1.0, -1.0) == ([], [])
    assert begun | broken == set(range(len(works))) and not begun & broken
    assert broken == {k for k, (p, s) in enumerate(works) if max(p, p * s) >= BEYOND_FLOATS}


async def test_row_35_several_requests_beyond_the_backlog_are_queued_together_or_not_at_all(tiny):
    """The first of a body's choices must not run for a client that was refused."""
    engine = engine_of(tiny, settings_of(max_backlog=2000))
    engine.start()
    try:
        choices = [request(i, steps=40) for i in range(3)]
        assert sum(choice.work.total for choice in choices) > 2000
        try:
            whole = engine.submit_all(choices)
        except QueueFull:
            assert not engine.scheduler.waiting
        else:
            for subscription in whole:
                assert isinstance(await result(subscription), Done)
    finally:
        engine.stop()
