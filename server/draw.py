"""``xdlm draw``: images made in this process, as a grid, or one of them as a filmstrip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from models.checkpoint import Checkpoint
from sampler.params import SamplingParams
from server.engine import Engine
from server.events import Failed, GenerationRequest, Step
from server.generate import GenerationFailed
from server.images import picture

MASKED = (96, 132, 200)  # what is not drawn yet
GAP = 1  # between pictures, before they are made larger
PAPER = 255


async def drawn(
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
    """Canvases as one picture, row by row; masks are blue.

    Args:
        checkpoint: whose images they are.
        canvases: ids.
        columns: pictures in a row.
        scale: how many times larger each pixel is shown.
    """
    ids = torch.tensor([*canvases])
    shape = checkpoint.check_pixels()
    height, width = shape.size
    pixels = checkpoint.pixels(ids).numpy()
    if pixels.shape[-1] == 1:
        pixels = pixels.repeat(3, -1)
    missing = (ids >= shape.levels).numpy().reshape(len(ids), -1, shape.height, shape.width)
    missing = missing.any(1).repeat(shape.scale, 1).repeat(shape.scale, 2)
    pixels = np.where(missing[..., None], np.array(MASKED, np.uint8), pixels)
    rows = -(-len(ids) // columns)
    sheet = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8
    )
    for i, image in enumerate(pixels):
        top, left = (
            GAP + place * (size + GAP)
            for place, size in zip(divmod(i, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    whole = picture(torch.from_numpy(sheet))
    return whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)


def spread(states: Sequence[list[int]], count: int) -> list[list[int]]:
    """At most so many of the states, spread evenly, the first and the last among them."""
    last, count = len(states) - 1, min(count, len(states))
    return [states[round(i * last / max(1, count - 1))] for i in range(count)]
