"""``xdlm cluster``: replicas on Ray Serve, on this machine or in a running cluster."""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated, Any

import typer
from rich.console import Console

from models.progress import Work
from server.cli.common import errors, stop
from server.cli.defaults import showing_defaults
from server.cli.progress import ShownProgress
from server.cluster.settings import ClusterSettings
from server.config import ConfigError

# What Ray reads when it is imported, and hands on to the processes that it starts.
JOINED = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
LOCAL = {
    **JOINED,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: keep to 127.0.0.1
    "RAY_worker_niceness": "0",  # replicas are not background work
    # a busy machine of few cores starts processes slower than Ray waits for them
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


@showing_defaults(ClusterSettings)
def cluster(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(help="as of serve, each its own deployment")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="of each model")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="largest number of replicas when autoscaling")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; auto is cuda with --replica-gpus")
    ] = None,
    replica_gpus: Annotated[float | None, typer.Option(help="GPUs for each replica")] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="processes or GPUs that a replica's model is split over")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a running Ray cluster; else start one"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="deploy to --address and exit")] = False,
) -> None:
    """Serve checkpoints as replicas on Ray Serve. Flags override XDLM_* variables, of which there
    are more. Deploying again to the same cluster updates it without ending a stream.
    """
    if detach and address is None:
        stop("--detach needs --address", 2)
    checkpoints = checkpoints or None  # no argument is an empty list
    given = {k: v for k, v in locals().items() if v is not None}
    flags = {k: v for k, v in given.items() if k in ClusterSettings.model_fields}
    try:
        settings = ClusterSettings.read(flags)
    except ConfigError as error:
        stop(str(error), 2)
    local = address is None or address.startswith("127.")
    for name, value in (LOCAL if local else JOINED).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve

        from server.cluster.application import NAME, application
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        stop("xdlm cluster needs Ray: pip install 'xdlm-serve[ray]'")
    from models.errors import CheckpointError

    try:
        built = application(settings)
    except ConfigError as error:
        stop(str(error), 2)
    except CheckpointError as error:
        stop(str(error))
    with ShownProgress(errors).of(Work("cluster", "starting", "started")):
        if address is None:
            ray.init(**_local(settings))
        else:
            ray.init(address=address, log_to_driver=False)
        serve.start(http_options={"host": settings.host, "port": settings.port})
        serve.run(built, name=NAME, route_prefix="/")
    out = Console(highlight=False)
    out.print(f"Ray at {ray.get_runtime_context().gcs_address}", style="dim")
    out.print(f"Listening on [bold]http://{settings.host}:{settings.port}[/bold]")
    if detach:
        return
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()


def _local(settings: Any) -> dict[str, Any]:
    """Arguments of ``ray.init`` on this machine: only what replicas need.

    The number of CPUs allows all replicas and those of the next version at once.
    """
    most = len(settings.checkpoints) * max(settings.replicas, settings.max_replicas)
    return {
        "num_cpus": max(os.cpu_count() or 1, 2 * most),
        "include_dashboard": False,
        "log_to_driver": False,
        "object_store_memory": 256 << 20,
    }
