"""Engines that run for a test, and what comes of their requests."""

from __future__ import annotations

from contextlib import asynccontextmanager

from server.engine.events import Done
from tests.support.engine import result, until_idle
from tests.support.serving import make_engine


@asynccontextmanager
async def running(checkpoint, **limits):
    """An engine that runs, and at its end has given all slots of its cache back."""
    engine = make_engine(checkpoint, **limits)
    engine.start()
    try:
        yield engine
        await until_idle(engine)
        assert engine.scheduler.slots.used == 0
    finally:
        engine.stop()


async def tokens_of(subscription) -> tuple[int, ...]:
    """The tokens of a request that succeeds."""
    event = await result(subscription)
    assert isinstance(event, Done), event
    return event.tokens
