"""Runs a job and records its events, independently of the clients that read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Literal, TypeVar, cast

import orjson
import structlog

from server.api.context import State
from server.api.jobs.base import ChoiceReader, Job
from server.api.schemas.responses.trajectories import (
    Begun,
    Block,
    Completed,
    Created,
    FinishedChoice,
    FinishedImage,
    Origin,
    RecordedStep,
)
from server.engine.events import Failed, GenerationRequest, Step
from server.engine.stream import merged
from server.http.errors import ApiError
from server.trajectories.recording import Record, Recording

log = structlog.get_logger()

KIND: Literal["diffusion.trajectory"] = "diffusion.trajectory"
TOO_LARGE = "too_large", "the recordings take more memory than they may"

ReaderT = TypeVar("ReaderT", bound=ChoiceReader[FinishedChoice | FinishedImage])


class Recorder(Generic[ReaderT]):
    """Runs a job and records its events, from ``diffusion.created`` to one final event.

    A run without followers is cancelled after ``resume_seconds``.
    """

    def __init__(self, state: State, job: Job[ReaderT], owner: bytes = b"") -> None:
        """Nothing runs before ``start``; ``owner`` is the key that may read the recording."""
        self._state, self._job = state, job
        job.requests = [replace(r, lossless=True) for r in job.requests]
        self._recording = Recording(job.head.id, self._cancel, self._note_followers, owner)
        self._blocks = [SettledBlocks(request) for request in job.requests]
        self._leave: asyncio.TimerHandle | None = None

    def start(self, origin: Origin) -> Recording:
        """Queue the run. ``origin`` are further fields of the first record.

        Raises:
            ApiError: 429 when the queue has no room.
        """
        job, head = self._job, self._job.head
        self._subscriptions = job.submit()
        self._state.trajectories.begin(self._recording)
        self._task = asyncio.create_task(self._run())
        begun: Begun = {
            "id": head.id,
            "object": KIND,
            "created": head.created,
            "model": head.model,
            "choices": [
                {
                    "index": i,
                    "seed": request.params.seed,
                    "positions": len(request.tokens),
                    "editable": [[*edges] for edges in stretches(request.editable)],
                }
                for i, request in enumerate(job.requests)
            ],
            "seed": head.seed,
        }
        created: Created = {**begun, **origin}
        self._write("diffusion.created", created)
        return self._recording

    async def _run(self) -> None:
        try:
            self._readers: Sequence[ReaderT] = await self._job.readers(self._subscriptions)
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
        elapsed = self._elapsed()
        record = reader.trajectory.record(step)
        recorded: RecordedStep = {"choice": i, "elapsed_ms": elapsed, **record}
        self._write("diffusion.step", recorded)
        for number in self._blocks[i].more(step.settled):
            block: Block = {
                "choice": i,
                "elapsed_ms": elapsed,
                "block": number,
                "step": step.step,
            }
            self._write("diffusion.block", block)

    async def _complete(self) -> None:
        """Write the last record. Its choices are encoded one by one, and no more of them than the
        store has room for.
        """
        room = self._state.trajectories.max_bytes - self._recording.size
        if sum(reader.least_bytes() for reader in self._readers) > room:
            self._fail(*TOO_LARGE)
            return
        encoded: list[orjson.Fragment] = []
        async for choice in self._job.choices(self._readers):
            data = orjson.dumps(choice)
            room -= len(data)
            if room < 0:
                self._fail(*TOO_LARGE)
                return
            encoded.append(orjson.Fragment(data))
        head = self._job.head
        completed: Completed = {
            "id": head.id,
            "object": KIND,
            "created": head.created,
            "model": head.model,
            "choices": cast("list[FinishedChoice] | list[FinishedImage]", encoded),
            "seed": head.seed,
            "usage": self._job.usage(self._readers),
            "elapsed_ms": self._elapsed(),
        }
        self._write("diffusion.completed", completed, last=True)

    def _fail(self, code: str, message: str) -> None:
        if self._recording.ended:
            return
        self._recording.failed = code
        began = self._subscriptions[0].submitted
        self._append(Record.of_failure(self._recording.id, began, code, message), last=True)

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

    def _write(self, name: str, data: Mapping[str, object], last: bool = False) -> None:
        """Append a record, unless the recording has ended."""
        if not self._recording.ended:
            self._append(Record(name, orjson.dumps(data)), last)

    def _append(self, record: Record, last: bool) -> None:
        """Append a record; if memory is full, end the largest recording."""
        trajectories, now = self._state.trajectories, time.monotonic()
        taken = self._recording.append(record, last)
        if last:
            trajectories.end(self._recording, now)
        if (largest := trajectories.grew(taken, now)) is not None:
            largest.cancel(*TOO_LARGE)

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
