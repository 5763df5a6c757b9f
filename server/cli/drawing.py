"""``xdlm draw``: images made in this process, as a grid, or one of them as a filmstrip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from models.checkpoints.load import Checkpoint
from sampler.params import SamplingParams
from server.cli.generation import GenerationFailed
from server.engine.engine import Engine
from server.engine.events import Failed, GenerationRequest, Step
from server.trajectories.sheet import sheet_of


async def denoised(
    engine: Engine, length: int, params: Sequence[SamplingParams]
) -> list[list[list[int]]]:
    """All states of each canvas, from the prior to the finished image.

    Raises:
        GenerationFailed: one of them failed.
    """

    async def states(request: GenerationRequest) -> list[list[int]]:
        found: list[list[int]] = []
        async for event in engine.submit(request):
            if isinstance(event, Failed):
                raise GenerationFailed(event.message)
            if isinstance(event, Step):
                found.append(event.applied_to(found[-1] if found else []))
        return found

    requests = [GenerationRequest.continuing([], length, p, wants_steps=True) for p in params]
    requests = [replace(request, lossless=True) for request in requests]
    engine.start()
    try:
        return await asyncio.gather(*(states(request) for request in requests))
    finally:
        engine.stop()


def tiled(
    checkpoint: Checkpoint, canvases: Sequence[Sequence[int]], columns: int, scale: int
) -> Image.Image:
    """Canvases as a grid of images; masked positions are blue.

    Args:
        checkpoint: the model of the images.
        canvases: ids.
        columns: images in a row.
        scale: how many times larger each pixel is shown.
    """
    ids = torch.tensor([*canvases])
    shape = checkpoint.check_pixels()
    missing = (ids >= shape.levels).view(len(ids), -1, shape.height, shape.width).any(1)
    return sheet_of(checkpoint.pixels(ids).numpy(), missing.numpy(), columns, scale)


def spread(states: Sequence[list[int]], count: int) -> list[list[int]]:
    """At most ``count`` evenly spaced states, including the first and the last."""
    last, count = len(states) - 1, min(count, len(states))
    return [states[round(i * last / max(1, count - 1))] for i in range(count)]
