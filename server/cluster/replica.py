"""A replica: one engine, one model, and the single server's application around them."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import torch
from ray import serve

from models.checkpoints.load import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_divided_checkpoint,
)
from models.checkpoints.malloc import keep_freed_memory
from server import logs
from server.api.app import create_app
from server.cluster.messages import ForwardedRequest, Start, answered, model_tag, replica_tag
from server.config import Settings
from server.engine.factory import check_servable, engine_of, warm_up
from server.engine.metrics import Metrics
from server.engine.position_limits import position_limits


class Replica:
    """One replica of a model; Ray Serve runs it as an actor."""

    async def __init__(self, checkpoint: str, settings: Settings) -> None:
        """Load a checkpoint and start its engine on the running event loop.

        Args:
            checkpoint: a bundled name or a folder.
            settings: of the server.

        Raises:
            CheckpointError: it cannot be served.
        """
        logs.configure()
        keep_freed_memory()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._lost: int | None = None
        loaded = check_servable(self._loaded(find_checkpoint(checkpoint), settings))
        warm_up(loaded)
        self._tag = replica_tag(serve.get_replica_context().replica_id.unique_id)
        self._metrics = Metrics()
        (limit,) = position_limits([loaded], settings)
        self._engine = engine_of(loaded, settings, self._metrics, limit=limit)
        tag = model_tag(loaded.info.name) + self._tag
        self._app = create_app([self._engine], settings, tag)
        self._running = AsyncExitStack()
        await self._running.enter_async_context(self._app.router.lifespan_context(self._app))

    def _loaded(self, place: Path, settings: Settings) -> Checkpoint:
        """On several ranks, if asked for: this process is the first, and starts the others."""
        how = (settings.device, settings.dtype)
        if settings.tensor_parallel == 1:
            return load_checkpoint(place, *how, settings.adapter_folder)

        def lost(rank: int) -> None:
            self._lost = rank

        return load_divided_checkpoint(place, settings.tensor_parallel, lost, *how)

    async def answer(self, request: ForwardedRequest) -> AsyncGenerator[str | Start | bytes]:
        """The replica's tag, the start of the answer, then its body as it comes."""
        yield self._tag
        async for part in answered(self._app, request):
            yield part

    async def metrics(self) -> tuple[str, bytes]:
        """The replica's tag, and its metrics in Prometheus's text format."""
        return self._tag, self._metrics.render()

    async def ready(self) -> bool:
        """Whether requests are taken."""
        return self._engine.ready

    async def record_routing_stats(self) -> dict[str, int]:
        """Backlog for the router: positions × steps left."""
        return {"backlog": self._engine.backlog}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Backlog for the autoscaler, in estimated seconds."""
        return {"backlog_seconds": self._engine.backlog_seconds}

    async def check_health(self) -> None:
        """Ray Serve starts a replica anew whose engine has ended, or one of whose ranks has.

        Raises:
            RuntimeError: it has.
        """
        if self._lost is not None:
            raise RuntimeError(f"rank {self._lost} of the model ended")
        if not self._engine.ready:
            raise RuntimeError("the engine takes no requests")

    async def __del__(self) -> None:
        """End the server: after its last answer, or after the shutdown timeout, when open streams
        end with an error event.
        """
        await self._running.aclose()
