"""Requests to an engine without HTTP."""

from __future__ import annotations

import asyncio
import time

from server.engine.events import Done, Failed, GenerationRequest
from server.engine.request_params import sampling_params


def request(i: int = 0, length: int = 24, wants_steps: bool = False, **choices):
    params = {"steps": 6, "seed": i, "temperature": 0.9, "top_p": 0.95, "mixing_ratio": 0.2}
    prompt = [0] + [300 + i] * (1 + i % 5)
    return GenerationRequest.continuing(
        prompt, length, sampling_params(params | choices, {}), wants_steps
    )


async def result(subscription) -> Done | Failed:
    async for event in subscription:
        if isinstance(event, Done | Failed):
            return event
    raise AssertionError("a subscription ends with Done or Failed")


async def until_idle(engine, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while engine.scheduler.running or engine.scheduler.waiting:
        assert time.monotonic() < deadline, "slots were not freed"
        await asyncio.sleep(0.005)
