"""Answers do not depend on the requests that share the steps."""

from __future__ import annotations

import asyncio
import random

import pytest

from server.engine.events import Done
from tests.support.effort import count
from tests.support.engine import request, result, until_idle
from tests.support.serving import make_engine

SAMPLERS = ("ancestral", "topk", "threshold", "gidd", "remdm")


@pytest.mark.parametrize("mixtures", [count(2, 4), pytest.param(1000, marks=pytest.mark.slow)])
async def test_row_30_random_company(tiny, mixtures):
    """Each prompt holds an id of its own; every answer is that of the request alone, bit for bit,
    though requests come, go, are set aside for others and go on.
    """
    chance = random.Random(30)
    kinds = []
    for i in range(count(15, 24) if mixtures < 1000 else 24):
        chosen = {"sampler": SAMPLERS[i % 5], "steps": chance.randint(2, 12)}
        if chosen["sampler"] not in ("ancestral", "topk"):
            chosen["mixing_ratio"] = 0.0
        kinds.append(request(i, length=chance.randint(5, 60), **chosen))
    engine, alone = make_engine(tiny, max_running=6), dict[int, Done]()
    engine.start()
    try:
        for i, kind in enumerate(kinds):
            done = await result(engine.submit(kind))
            assert isinstance(done, Done)
            alone[i] = done
        for _ in range(mixtures):
            some = chance.sample(range(len(kinds)), chance.randint(2, 12))
            running = []
            for i in some:
                running.append(engine.submit(kinds[i]))
                await asyncio.sleep(chance.choice((0, 0, 0.002)))
            lost = chance.sample(running, len(running) // 4)
            for subscription in lost:
                subscription.cancel()
            for i, subscription in zip(some, running, strict=True):
                if subscription not in lost:
                    together = await result(subscription)
                    assert isinstance(together, Done) and together.tokens == alone[i].tokens
        await until_idle(engine)
    finally:
        engine.stop()
