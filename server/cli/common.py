"""What commands share: options, and loading a checkpoint or saying why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from models.checkpoints.load import (
    Checkpoint,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    load_divided_checkpoint,
)
from models.printable import printable
from sampler.params import InvalidParam, SamplingParams
from server.cli.sampling_flags import parsed
from server.engine.request_params import check_defaults, sampling_params

errors = Console(stderr=True, highlight=False)

DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
DTypeOption = Annotated[str, typer.Option(help="auto, float32 or bfloat16")]


def say(message: str) -> None:
    """A line on stderr about what is wrong."""
    errors.print(f"xdlm: {printable(message)}", style="red", markup=False, soft_wrap=True)


def stop(message: str, code: int = 1) -> NoReturn:
    """End the command with a line on stderr."""
    say(message)
    raise typer.Exit(code)


def load(
    name: str,
    device: str,
    dtype: str,
    threads: int = 0,
    ranks: int = 1,
    lost: Callable[[int], None] = lambda rank: None,
) -> Checkpoint:
    """A checkpoint by a bundled name or a folder, ready to run; on several ranks, if asked for:
    ``lost`` is told, on a thread of its own, which of them ended by itself.
    """
    import torch

    if dtype not in ("auto", "float32", "bfloat16"):
        stop(f"--dtype must be auto, float32 or bfloat16, not {dtype!r}", 2)
    if threads:
        torch.set_num_threads(threads)
    try:
        place = find_checkpoint(name)
        if ranks > 1:
            return load_divided_checkpoint(place, ranks, lost, device, dtype)  # type: ignore[arg-type]
        return load_checkpoint(place, device, dtype)  # type: ignore[arg-type]
    except CheckpointError as error:
        stop(str(error))


def check_said(name: str, defaults: Mapping[str, Any]) -> None:
    """End the command where a ``generation_config.json`` says what no request could choose."""
    try:
        check_defaults(defaults)
    except InvalidParam as error:
        stop(f"{name}: generation_config.json: {error}", 2)


def params_of(loaded: Checkpoint, chosen: dict[str, Any]) -> SamplingParams:
    """What the checkpoint does by itself, but for what was chosen."""
    check_said(loaded.info.name, loaded.defaults)
    try:
        return sampling_params(loaded.defaults, parsed(chosen))
    except InvalidParam as error:
        stop(str(error), 2)
