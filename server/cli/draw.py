"""``xdlm draw``: images of classes, in one picture file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import CheckpointError
from models.printable import printable
from sampler.params import InvalidParam
from server.cli.common import CheckpointOption, DeviceOption, DTypeOption, load, params_of, stop
from server.config import Settings


def draw(
    what: Annotated[str, typer.Argument(help="a class, by its name or number; all for each")],
    out: Annotated[Path, typer.Argument(help="a picture file: .png, .webp")],
    checkpoint: CheckpointOption = "digits",
    count: Annotated[int, typer.Option(min=1, max=256, help="images of each class")] = 1,
    states: Annotated[
        int,
        typer.Option("--film", min=0, help="number of steps of the first image to show instead"),
    ] = 0,
    scale: Annotated[int, typer.Option(min=1, max=64, help="scale factor")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the first image; further images count up")] = 0,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    *,
    chosen: dict[str, Any],
) -> None:
    """Generate images of a class into one picture, or the steps of one image."""
    from server.cli.drawing import denoised, spread, tiled
    from server.cli.generation import GenerationFailed
    from server.engine.factory import engine_of
    from server.engine.request_params import class_named

    loaded = load(checkpoint, device, dtype)
    params = params_of(loaded, chosen)
    try:
        shape = loaded.check_pixels()
        labels = range(loaded.info.classes) if what == "all" else [class_named(loaded.info, what)]
        wanted = [
            params.changed(class_label=label, seed=seed + i * count + j)
            for i, label in enumerate(labels)
            for j in range(count)
        ]
        engine = engine_of(loaded, Settings.model_validate({}))
        runs = asyncio.run(denoised(engine, shape.length, wanted[:1] if states else wanted))
    except (InvalidParam, GenerationFailed, CheckpointError) as error:
        stop(str(error), 2)
    canvases = spread(runs[0], states) if states else [run[-1] for run in runs]
    columns = len(canvases) if states else count
    try:
        tiled(loaded, canvases, columns, scale).save(out)
    except (OSError, ValueError) as error:
        stop(f"{out}: {error}", 2)
    print(f"{printable(str(out))}: {len(canvases)} pictures")
