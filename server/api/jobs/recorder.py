"""Runs a job and records its events, independently of the clients that read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
import structlog

from server.api.context import State
from server.api.jobs.base import ChoiceReader, Run
from server.engine.events import Failed, GenerationRequest, Step
from server.engine.stream import merged
from server.http.errors import ApiError, error_body
from server.trajectories.recording import Record, Recording

log = structlog.get_logger()

KIND = "diffusion.trajectory"


class Recorder:
    """Runs a job and records its events, from ``diffusion.created`` to one final event.

    A run without followers is cancelled after ``resume_seconds``.
    """

    def __init__(self, state: State, job: Run[Any], owner: bytes = b"") -> None:
        """Nothing runs before ``start``; ``owner`` is the key that may read the recording."""
        self._state, self._job = state, job
        job.requests = [replace(r, lossless=True) for r in job.requests]
        self._recording = Recording(job.id, self._cancel, self._note_followers, owner)
        self._blocks = [SettledBlocks(request) for request in job.requests]
        self._leave: asyncio.TimerHandle | None = None

    def start(self, **created: Any) -> Recording:
        """Queue the run. ``created`` are further fields of the first record.

        Raises:
            ApiError: 429 when the queue has no room.
        """
        job = self._job
        choices = [
            {
                "index": i,
                "seed": request.params.seed,
                "positions": len(request.tokens),
                "editable": stretches(request.editable),
            }
            for i, request in enumerate(job.requests)
        ]
        self._subscriptions = job.submit()
        self._state.trajectories.begin(self._recording)
        self._task = asyncio.create_task(self._run())
        self._write("diffusion.created", job.object(KIND, choices, **created))
        return self._recording

    async def _run(self) -> None:
        try:
            self._readers: Sequence[ChoiceReader] = await self._job.readers(self._subscriptions)
            async with aclosing(merged(self._subscriptions)) as events:
                async for i, event in events:
                    if isinstance(event, Failed):
                        self._fail(event.code, event.message)
                        return
                    if isinstance(event, Step):
                        self._step(i, event)
                    else:
                        self._readers[i].end(event)
            await self._complete()
        except ApiError as error:
            self._fail(error.code or "internal", error.message)
        except Exception:
            log.exception("recording failed", trajectory=self._recording.id)
            self._fail("internal", "the trajectory could not be recorded")
        finally:
            self._fail("shutting_down", "the server is shutting down")  # unless it has ended
            self._free()

    def _step(self, i: int, step: Step) -> None:
        reader = self._readers[i]
        reader.follow(step)
        elapsed = {"elapsed_ms": self._elapsed()}
        self._write("diffusion.step", {"choice": i, **elapsed, **reader.trajectory.record(step)})
        for block in self._blocks[i].more(step.settled):
            told = {"choice": i, **elapsed, "block": block, "step": step.step}
            self._write("diffusion.block", told)

    async def _complete(self) -> None:
        told = zip(await self._job.choices(self._readers), self._readers, strict=True)
        choices = [{**choice, "ids": list(reader.canvas)} for choice, reader in told]
        usage = self._job.usage(self._readers)
        done = self._job.object(KIND, choices, usage=usage, elapsed_ms=self._elapsed())
        self._write("diffusion.completed", done, last=True)

    def _fail(self, code: str, message: str) -> None:
        if self._recording.ended:
            return
        self._recording.failed = code
        error = error_body(500, message, None, code)
        told = {"id": self._recording.id, "elapsed_ms": self._elapsed(), **error}
        self._write("diffusion.failed", told, last=True)

    def _cancel(self, code: str, message: str) -> None:
        self._fail(code, message)
        self._free()
        self._task.cancel()

    def _free(self) -> None:
        for subscription in self._subscriptions:
            subscription.cancel()

    def _elapsed(self) -> float:
        """Milliseconds since submission."""
        return round(1e3 * (time.monotonic() - self._subscriptions[0].submitted), 3)

    def _write(self, name: str, data: dict[str, Any], last: bool = False) -> None:
        """Append a record, unless the recording has ended; if memory is full, end the largest."""
        if self._recording.ended:
            return
        trajectories, now = self._state.trajectories, time.monotonic()
        taken = self._recording.append(Record(name, orjson.dumps(data)), last)
        if last:
            trajectories.end(self._recording, now)
        if (largest := trajectories.grew(taken, now)) is not None:
            largest.cancel("too_large", "the recordings take more memory than they may")

    def _note_followers(self) -> None:
        """Start or stop the timer that cancels a run without followers."""
        if self._leave is not None:
            self._leave.cancel()
            self._leave = None
        if not self._recording.followers:
            seconds = self._state.settings.resume_seconds
            message = f"the trajectory had no reader for {seconds:g} s"
            loop = asyncio.get_running_loop()
            self._leave = loop.call_later(seconds, self._cancel, "abandoned", message)


class SettledBlocks:
    """Counts the blocks of a canvas that can no longer change; a canvas without blocks is one."""

    def __init__(self, request: GenerationRequest) -> None:
        """Start with no settled block."""
        written = [at for at, editable in enumerate(request.editable) if editable]
        length = request.params.own.block_positions(len(written))
        self._ends = [
            written[min(i + length, len(written)) - 1] + 1
            for i in range(0, len(written), length or 1)
        ]
        self._told = 0

    def more(self, settled: int) -> list[int]:
        """Blocks that have settled since the last call; ``settled`` counts leading positions."""
        first = self._told
        while self._told < len(self._ends) and self._ends[self._told] <= settled:
            self._told += 1
        return list(range(first, self._told))


def stretches(editable: Sequence[bool]) -> list[tuple[int, int]]:
    """Editable ranges of a canvas: (first position, one past the last)."""
    edges = [
        at
        for at in range(len(editable) + 1)
        if (at < len(editable) and editable[at]) != (at > 0 and editable[at - 1])
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))
