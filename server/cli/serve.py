"""``xdlm serve``: build engines and the application from settings, and serve."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console

from models.checkpoints.devices import DTYPE_WORDS
from models.checkpoints.load import Checkpoint, check_checkpoint, checkpoint_outline
from models.checkpoints.openmp import end_idle_threads
from models.errors import CheckpointError
from models.printable import printable
from sampler.params import InvalidParam
from server.cli.collections import without_collections
from server.cli.common import HUB_NAME, check_generation_config, errors, load, place_of, stop
from server.cli.defaults import showing_defaults
from server.cli.memory import check_memory
from server.cli.progress import ShownProgress
from server.config import ConfigError, Settings, keep_keys_from_children
from server.engine.factory import begin_probe, check_servable, engine_of, warm_up
from server.engine.position_limits import position_limits
from server.engine.request_params import ModelKind
from server.engine.step_timer import PositionLimit
from server.http.addresses import is_loopback, listening, url_host
from server.http.api_keys import readable_by_others

if TYPE_CHECKING:
    from server.api.lifecycle import Server


@showing_defaults(Settings)
def serve(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"bundled names, folders or {HUB_NAME} on the hub; several are served at once"
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="folder of a LoRA adapter, added to the weights")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 picks a free one")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE_WORDS)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0 uses all cores")] = None,
    force_memory: Annotated[
        bool | None,
        typer.Option("--force-memory", help="start even if the device has too little memory"),
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="processes or GPUs that one network is split over")
    ] = None,
    max_waiting: Annotated[int | None, typer.Option(help="requests queued before 429")] = None,
    max_running: Annotated[int | None, typer.Option(help="requests denoised together")] = None,
    max_positions: Annotated[int | None, typer.Option(help="canvas positions in a step")] = None,
    cache_positions: Annotated[
        int | None, typer.Option(help="canvas positions whose keys and values can be kept")
    ] = None,
    api_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key", help="accept this API key; repeatable. Other users can see flags (ps)"
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file of accepted API keys, one a line")
    ] = None,
    docs: Annotated[
        bool | None, typer.Option("--docs", help="serve the API reference at /docs")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print all settings as YAML, and exit")
    ] = False,
) -> None:
    """Serve checkpoints over HTTP. Flags override XDLM_* variables, of which there are more, and
    those override the file.
    """
    checkpoints = checkpoints or None  # no argument is an empty list
    flags = {k: v for k, v in locals().items() if v is not None and k in Settings.model_fields}
    try:
        settings = Settings.read(flags, config)
        if print_config:
            print(settings.as_yaml(), end="")
        else:
            _serve(settings)
    except ConfigError as error:
        stop(str(error), 2)


def _serve(settings: Settings) -> None:
    from server import logs
    from server.api.lifecycle import ignore_stray_signals

    _check_checkpoints(settings)
    logs.take_over_output()
    logs.configure()
    ignore_stray_signals()
    place = url_host(settings.host)
    try:
        listener = listening(settings.host, settings.port)
    except OSError as error:
        stop(f"cannot listen on {place}:{settings.port}: {error.strerror}")
    settings = settings.at(listener.getsockname()[0])
    _warn(settings)
    gone: list[int] = []

    def lost(rank: int) -> None:
        """Shut down: a model without one of its ranks cannot answer, so all must be restarted."""
        gone.append(rank)
        errors.print(f"xdlm: rank {rank} of the model ended; the server shuts down", style="red")
        os.kill(os.getpid(), signal.SIGTERM)

    keep_keys_from_children()
    with without_collections():
        server = _built(settings, f"http://{place}:{listener.getsockname()[1]}", lost)
    server.run([listener])
    if gone:
        raise typer.Exit(1)


def _built(settings: Settings, url: str, lost: Callable[[int], None]) -> Server:
    """The server of all models, loaded and warmed up, once it has said so."""
    from server.api.lifecycle import Server
    from server.engine.metrics import Metrics

    models = [_loaded_for_serving(name, settings, lost) for name in settings.checkpoints]
    # takes a third of a second, in which the processes of chat templates start
    from server.api.app import create_app

    for loaded in models:
        warm_up(loaded, ShownProgress(errors))
    end_idle_threads()  # from now on the engines' threads compute
    out = Console(highlight=False)
    limits = position_limits(models, settings)
    metrics = Metrics()
    try:
        engines = [
            engine_of(loaded, settings, metrics, limit=limit)
            for loaded, limit in zip(models, limits, strict=True)
        ]
    except CheckpointError as error:
        stop(str(error))
    for loaded, limit in zip(models, limits, strict=True):
        out.print(printable(_facts(loaded, limit)), style="dim", markup=False, soft_wrap=True)
    out.print(f"Listening on [bold]{url}[/bold]. Open it in a browser to watch, or try:\n")
    for route, body in _examples(models):
        out.print(
            f"  curl {url}{route} -H 'Content-Type: application/json' -d '{json.dumps(body)}'\n",
            soft_wrap=True,
            markup=False,
        )
    return Server(
        create_app(engines, settings),
        engines,
        settings.shutdown_seconds,
        keep_alive=settings.keep_alive_seconds,
        connections=settings.max_connections,
    )


def _check_checkpoints(settings: Settings) -> None:
    """Check headers, configuration and defaults of all checkpoints before the port is bound."""
    how = (settings.device, settings.dtype, settings.tensor_parallel, settings.adapter_folder)
    names, sizes = [], []
    for name in settings.checkpoints:
        try:
            with checkpoint_outline(name) as folder:
                info, defaults, needs, _ = check_checkpoint(folder, *how)
        except CheckpointError as error:
            stop(str(error))
        check_generation_config(name, defaults, ModelKind.of(info))
        names.append(info.name)
        sizes.append((info, needs))
    if len(set(names)) < len(names):
        stop(f"two checkpoints have the same name: {', '.join(sorted(names))}", 2)
    if not settings.force_memory:
        try:
            check_memory(sizes, settings)
        except CheckpointError as error:
            stop(str(error))
    for name in settings.checkpoints:
        place_of(name)


def _warn(settings: Settings) -> None:
    """Log settings that give others access."""
    log = structlog.get_logger()
    if not settings.keys and not is_loopback(settings.host):
        log.warning(
            "no API key is set: anyone who can reach the port can use the server",
            address=settings.host,
        )
    file = settings.api_key_file.file
    if file is not None and (mode := readable_by_others(file)) is not None:
        log.warning(
            "other users of this machine can read the key file",
            setting="api_key_file",
            mode=f"{mode:04o}",
        )


def _loaded_for_serving(name: str, settings: Settings, lost: Callable[[int], None]) -> Checkpoint:
    """A loaded checkpoint that can be served; invalid defaults end the command."""
    how = (settings.device, settings.dtype, settings.threads, settings.tensor_parallel)
    loaded = load(name, *how, lost, settings.adapter_folder)
    try:
        check_servable(loaded)
    except CheckpointError as error:
        stop(str(error))
    except InvalidParam as error:
        stop(f"{name}: generation_config.json: {error}", 2)
    begin_probe(loaded)
    return loaded


def _facts(loaded: Checkpoint, limit: PositionLimit) -> str:
    """A line about a model: what it computes with, and on."""
    info = loaded.info
    kernel = f", attention by {loaded.attention}" if loaded.attention else ""
    added = f" with adapter {loaded.adapter}" if loaded.adapter else ""
    reason = " (by free memory)" if limit.by_memory else ""
    computed = f" (computed in {wide})" if (wide := loaded.arithmetic) != info.dtype else ""
    timed = "" if limit.seconds == math.inf else f" or {limit.seconds} s"
    return (
        f"{info.name}{added}: {info.parameters / 1e6:.1f} M parameters, {info.dtype}{computed} "
        f"on {loaded.device}{kernel}, steps of up to {limit.most} positions{reason}{timed}"
    )


def _examples(models: list[Checkpoint]) -> Iterator[tuple[str, dict[str, Any]]]:
    """An example route and body for each kind of model."""
    if any(loaded.info.image is None for loaded in models):
        yield "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 120}
    if any(loaded.info.image is not None for loaded in models):
        yield "/v1/images/generations", {"prompt": "7"}
