"""Builds an engine from settings, and prepares a checkpoint for it."""

from __future__ import annotations

import math
from dataclasses import replace

import structlog
import torch

from models.checkpoints.load import Checkpoint
from models.errors import CheckpointError
from models.progress import SILENT, Progress, Work
from models.sizes import bytes_text
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.graphs import CudaRecorder, StepGraphs
from sampler.registry import DEFAULT_SAMPLER
from sampler.step import take_step
from server.config import Settings
from server.engine.caching import Caching
from server.engine.engine import Deadlines, Engine
from server.engine.metrics import Metrics
from server.engine.position_limits import cache_bytes, cache_slots, position_limit
from server.engine.request_params import ModelKind, check_defaults, sampling_params
from server.engine.scheduler import Scheduler
from server.engine.step_timer import PositionLimit
from server.engine.turns import Turns
from server.engine.watchdog import Watchdog

log = structlog.get_logger()

WARM_UP_STEPS = 2
MAX_WORK_RATIO = {"cpu": 16.0, "cuda": math.inf}
"""A request may join a step only if its work is at most this multiple of the head request's, by
device. On a CPU a short request pays for each position of a long one in its step
(``benchmarks/fairness.py``).
"""


def engine_of(
    checkpoint: Checkpoint,
    settings: Settings,
    metrics: Metrics | None = None,
    watchdog: Watchdog | None = None,
    limit: PositionLimit | None = None,
) -> Engine:
    """An engine for a checkpoint, not started. Engines of one server share their metrics. Without
    ``limit`` its steps have the positions of the settings, whatever memory is free.

    Raises:
        CheckpointError: there is no memory for the keys and values that are kept.
    """
    device = checkpoint.device.type
    limit = limit or position_limit(settings, device)
    positions = limit.most
    slots = cache_slots(settings, checkpoint.info, device)
    if slots:
        _reserve(checkpoint, slots, settings)
    scheduler = Scheduler(
        settings.max_waiting,
        settings.max_running,
        positions,
        settings.max_backlog,
        max_work_ratio=MAX_WORK_RATIO[device],
        slots=slots,
    )
    scorer = Turns(
        checkpoint,
        settings.max_waiting,
        settings.score_positions or min(positions, 1024),
        settings.max_backlog,
    )
    graphs = None
    if device == "cuda" and settings.cuda_graphs:
        graphs = StepGraphs(checkpoint.model, checkpoint.device, CudaRecorder(checkpoint.device))
    deadlines = Deadlines(settings.queue_seconds or math.inf, settings.request_seconds or math.inf)
    return Engine(
        checkpoint,
        scheduler,
        scorer,
        metrics or Metrics(),
        watchdog or Watchdog(settings.watchdog_seconds),
        deadlines,
        limit,
        Caching(checkpoint.info, slots),
        graphs,
    )


def _reserve(checkpoint: Checkpoint, slots: int, settings: Settings) -> None:
    try:
        checkpoint.model.reserve(slots)
    except (MemoryError, torch.OutOfMemoryError):
        size = cache_bytes(checkpoint.info, settings, checkpoint.device.type)
        raise CheckpointError(
            f"{checkpoint.info.name}: {checkpoint.device} has no room for {bytes_text(size)} of "
            f"cache; cache_positions is {slots}"
        ) from None


def check_servable(checkpoint: Checkpoint) -> Checkpoint:
    """Check that requests can be answered with a checkpoint and that its defaults are valid.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: a part that requests need is missing.
        InvalidParam: a default in ``generation_config.json`` is invalid.
    """
    if checkpoint.info.image is not None:
        checkpoint.check_pixels()
    elif checkpoint.text is None:
        raise CheckpointError(f"{checkpoint.info.name}: tokenizer.json is missing")
    check_defaults(checkpoint.defaults, ModelKind.of(checkpoint.info))
    return checkpoint


def begin_probe(checkpoint: Checkpoint) -> None:
    """Have the chat template's process start and render the probe that ``warm_up`` waits for."""
    if checkpoint.text is not None and checkpoint.text.chat is not None:
        checkpoint.text.chat.begin_probe()


def warm_up(checkpoint: Checkpoint, progress: Progress = SILENT) -> None:
    """Run the model once, so that the first request does not pay for first-use set-up, and probe
    whether the chat template shows system messages. ``progress`` observes the steps.
    """
    _run_once(checkpoint, progress)
    chat = None if checkpoint.text is None else checkpoint.text.chat
    if chat is not None:
        chat.probe_system()
        if chat.shows_system is False:
            name = checkpoint.info.name
            log.warning("the chat template drops or refuses system messages", model=name)


def _run_once(checkpoint: Checkpoint, progress: Progress) -> None:
    """Take the steps of ``warm_up``."""
    info = checkpoint.info
    kind = replace(ModelKind.of(info), in_blocks=False)
    name = DEFAULT_SAMPLER if DEFAULT_SAMPLER in kind.samplers else kind.samplers[0]
    first = {"sampler": name, "steps": 1, "top_p": 0.9}
    params = sampling_params(checkpoint.defaults, first, kind)
    sampler = SAMPLERS[params.sampler].make(info.vocab_size, info.mask_id, checkpoint.ends)
    length = min(64, info.max_length) if info.image is None else info.image.length
    length = min(length, params.own.block_positions(length))  # one step writes one block
    canvas = ([0] * length, [True] * length, params)
    batch = sampler.begin(CanvasBatch.of([canvas], checkpoint.device))
    with progress.of(Work(info.name, "warming up", "warmed up", WARM_UP_STEPS, "steps")):
        for _ in range(WARM_UP_STEPS):
            batch = take_step(sampler, checkpoint.model, batch).batch
            progress.advance()
