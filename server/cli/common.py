"""Options and checkpoint loading that commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import typer
from rich.console import Console

from models.checkpoints.devices import DTYPE_WORDS, DType
from models.checkpoints.load import (
    Checkpoint,
    Inspected,
    checkpoint_outline,
    find_checkpoint,
    inspect_whole,
    load_checkpoint,
    load_divided_checkpoint,
)
from models.errors import CheckpointError
from models.printable import printable
from sampler.params import InvalidParam, SamplingParams
from server.cli.progress import ShownProgress
from server.cli.sampling_flags import parsed
from server.engine.constrained_params import constrained_params
from server.engine.request_params import ModelKind, check_defaults, sampling_params

HUB_NAME = r"ORG/NAME\[@REVISION]"  # rich reads other brackets as markup
NAMED = f"a bundled name, a folder, or {HUB_NAME} on the hub"
errors = Console(stderr=True, highlight=False)

CheckpointOption = Annotated[str, typer.Option(help=NAMED)]
AdapterOption = Annotated[
    Path | None, typer.Option(help="folder of a LoRA adapter, added to the weights")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
DTypeOption = Annotated[str, typer.Option(help=DTYPE_WORDS)]


def say(message: str) -> None:
    """Print an error line on stderr."""
    errors.print(f"xdlm: {printable(message)}", style="red", markup=False, soft_wrap=True)


def stop(message: str, code: int = 1) -> NoReturn:
    """End the command with an error line on stderr."""
    say(message)
    raise typer.Exit(code)


def in_utf8(text: str | None) -> str | None:
    """A text of the command line, whose bytes may be anything.

    Raises:
        typer.BadParameter: they are not UTF-8.
    """
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        raise typer.BadParameter("must be text in UTF-8")
    return text


def place_of(name: str) -> Path:
    """The folder of a checkpoint, after it has been downloaded if it is a hub's."""
    try:
        return find_checkpoint(name, ShownProgress(errors))
    except CheckpointError as error:
        stop(str(error))


def inspected(name: str) -> Inspected:
    """Facts, defaults and sizes of a checkpoint. Of a hub's, no weights are downloaded for them."""
    try:
        with checkpoint_outline(name) as folder:
            return inspect_whole(folder)
    except CheckpointError as error:
        stop(str(error))


def load(
    name: str,
    device: str,
    dtype: str,
    threads: int = 0,
    ranks: int = 1,
    lost: Callable[[int], None] = lambda rank: None,
    adapter: Path | None = None,
) -> Checkpoint:
    """A checkpoint by its name, ready to run.

    With several ranks, ``lost`` is called on its own thread with each rank that ends unexpectedly.
    """
    import torch

    if dtype not in get_args(DType):
        stop(f"--dtype must be {DTYPE_WORDS}, not {dtype!r}", 2)
    kind = cast(DType, dtype)
    if threads:
        torch.set_num_threads(threads)
    place, progress = place_of(name), ShownProgress(errors)
    try:
        if ranks > 1:
            return load_divided_checkpoint(place, ranks, lost, device, kind, progress)
        return load_checkpoint(place, device, kind, adapter, progress)
    except CheckpointError as error:
        stop(str(error))


def check_generation_config(name: str, defaults: Mapping[str, Any], kind: ModelKind) -> None:
    """End the command if ``generation_config.json`` has values that no request could set."""
    try:
        check_defaults(defaults, kind)
    except InvalidParam as error:
        stop(f"{name}: generation_config.json: {error}", 2)


def params_of(
    loaded: Checkpoint, chosen: dict[str, Any], constraint: str | None = None
) -> SamplingParams:
    """Sampling parameters: the checkpoint's defaults, overridden by chosen flags; ``constraint``
    names the flag that constrains the text, if one does.
    """
    kind = ModelKind.of(loaded.info)
    check_generation_config(loaded.info.name, loaded.defaults, kind)
    try:
        if constraint is not None:
            return constrained_params(loaded.defaults, parsed(chosen), kind, constraint)
        return sampling_params(loaded.defaults, parsed(chosen), kind)
    except InvalidParam as error:
        stop(str(error), 2)
