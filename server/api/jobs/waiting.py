"""Waiting for the engine on behalf of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from server.engine.engine import Engine
from server.engine.events import Failed
from server.engine.marginals import MarginalRequest, Marginals
from server.engine.scheduler import QueueFull
from server.engine.score_request import Score, ScoreRequest
from server.engine.turns import TaskFailed
from server.http.errors import ApiError

Answer = TypeVar("Answer")


RETRY_READY = 5  # seconds; Retry-After of a server that is not ready
NOT_NOW = frozenset({"shutting_down", "engine_hung", "queue_timeout", "deadline", "out_of_memory"})
"""Codes of failures that a retry may avoid; answered 503."""


def no_place(engine: Engine) -> ApiError:
    """The error of a rejected request: 429 if the queue is full, 503 if the engine is not ready."""
    if (reason := engine.unready) is not None:
        return ApiError(503, reason, code="not_ready", retry_after=RETRY_READY)
    engine.metrics.failed("queue_full")
    return ApiError(429, "the queue is full", code="queue_full", retry_after=engine.retry_after())


def failure(engine: Engine, failed: Failed) -> ApiError:
    """The error of a request that failed."""
    if failed.code in NOT_NOW:
        wait = engine.retry_after() if engine.ready else RETRY_READY
        return ApiError(503, failed.message, code=failed.code, retry_after=wait)
    return ApiError(500, failed.message, code=failed.code)


async def scored(engine: Engine, request: ScoreRequest) -> Score:
    """Wait for a score; see ``_in_turn``."""
    return await _in_turn(engine, lambda: engine.score(request))


async def marginals_of(engine: Engine, request: MarginalRequest) -> Marginals:
    """Wait for the marginals of canvases; see ``_in_turn``."""
    return await _in_turn(engine, lambda: engine.read(request))


async def _in_turn(engine: Engine, queue: Callable[[], asyncio.Future[Answer]]) -> Answer:
    """Wait for a task that ``queue`` queues.

    Raises:
        ApiError: 429 if the queue is full; 500 or 503 if the task failed.
    """
    try:
        return await queue()
    except QueueFull:
        raise no_place(engine) from None
    except TaskFailed as error:
        raise failure(engine, error.failed) from None


async def together(waits: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """The answers of several waits, in order; where one of them fails the others are cancelled.

    Raises:
        Exception: of the first wait that failed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def unless_gone(request: Request, waiting: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an answer; a client that disconnects cancels it."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    result = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ApiError(499, "client closed the request", code="cancelled")
        return result.result()
    finally:
        gone.cancel()
        result.cancel()
