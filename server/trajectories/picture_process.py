"""Pictures drawn by processes of their own, one at a time."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import structlog
import torch

from models.checkpoints.load import Checkpoint
from server.http.errors import ApiError
from server.trajectories.picture_worker import CPU_SECONDS

log = structlog.get_logger()

MAX_WAITING = 4  # pictures, besides the one that is drawn; each holds its body
WALL_SECONDS = 120.0  # of one picture, on a machine that has other things to do
RETRY_SECONDS = 2
WORKER = "server.trajectories.picture_worker"
ENVIRONMENT = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}  # no key of the server's is in it


@dataclass(frozen=True)
class Drawn:
    """A picture: ``gif`` or ``png``, its bytes, and a sentence about what was left out to fit."""

    form: str
    data: bytes
    note: str


class Pictures:
    """Draws pictures, one after the other; some may wait for their turn.

    Attributes:
        asked: how many are being drawn or wait.
    """

    def __init__(self) -> None:
        """Nothing is drawn yet."""
        self._turn = asyncio.Lock()
        self.asked = 0

    async def draw(
        self, body: bytes, frames: int, pixels: int, decoders: Mapping[str, Checkpoint]
    ) -> Drawn:
        """The picture that a body asks for. Cancelling it ends the
        process.

        Args:
            body: of ``POST /v1/diffusion/pictures``, as it came.
            frames, pixels: limits of the picture.
            decoders: the models that are served, by name.

        Raises:
            ApiError: 400 for a body that cannot be drawn, 429 where too many wait.
        """
        if self.asked > MAX_WAITING:
            message = f"{self.asked} pictures are being drawn; the limit is {MAX_WAITING + 1}"
            raise ApiError(429, message, code="queue_full", retry_after=RETRY_SECONDS)
        self.asked += 1
        try:
            async with self._turn:
                return await _drawn(body, frames, pixels, decoders)
        finally:
            self.asked -= 1


async def _drawn(
    body: bytes, frames: int, pixels: int, decoders: Mapping[str, Checkpoint]
) -> Drawn:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", WORKER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    known = {
        name: _described(checkpoint) for name, checkpoint in decoders.items() if _draws(checkpoint)
    }
    task = {"bytes": len(body), "frames": frames, "pixels": pixels, "decoders": known}
    try:
        async with asyncio.timeout(WALL_SECONDS):
            await _send(process, orjson.dumps(task) + b"\n", body)
            while True:
                told, payload = await _answer(process)
                if "decode" not in told:
                    break
                ids = np.frombuffer(payload, np.int64).reshape(told["images"], -1)
                made = await asyncio.to_thread(_decoded, decoders[told["decode"]], ids)
                await _send(process, orjson.dumps(made.shape) + b"\n", made.tobytes())
    except TimeoutError:
        raise _too_long(f"{WALL_SECONDS:g} s") from None
    except asyncio.IncompleteReadError:
        status = await process.wait()
        if status == -signal.SIGXCPU or status == -signal.SIGKILL:
            raise _too_long(f"{CPU_SECONDS} s of CPU time") from None
        log.error("a picture's process ended", status=status)
        raise ApiError(400, "runs cannot be drawn", param="runs", code="invalid_value") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
    if "error" in told:
        error = told["error"]
        raise ApiError(400, error["message"], param=error["param"], code=error["code"])
    return Drawn(told["picture"], payload, told["note"])


def _too_long(limit: str) -> ApiError:
    message = f"runs: the picture takes longer than the limit, {limit}"
    return ApiError(400, message, param="runs", code="limit_exceeded")


async def _send(process: asyncio.subprocess.Process, *parts: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # whoever waits for the answer notices
        for part in parts:
            process.stdin.write(part)
            await process.stdin.drain()


async def _answer(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    line = await process.stdout.readuntil(b"\n")
    told = orjson.loads(line)
    return told, await process.stdout.readexactly(told.get("bytes", 0))


def _draws(checkpoint: Checkpoint) -> bool:
    """Whether it has all that its images take."""
    shape = checkpoint.info.image
    return shape is not None and (shape.tokens != "vq" or checkpoint.decoder is not None)


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    shape = checkpoint.check_pixels()
    height, width = shape.size
    cells = [shape.height, shape.width]
    sizes = {"height": height, "width": width, "cells": cells}
    return {"length": shape.length, "levels": shape.levels, **sizes}


def _decoded(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    levels = checkpoint.check_pixels().levels
    return checkpoint.pixels(torch.from_numpy(ids.copy()).clamp(max=levels - 1)).numpy()
