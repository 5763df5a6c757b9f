"""A checkpoint made ready to serve: loaded, checked and run once."""

from __future__ import annotations

import structlog

from models.checkpoints.load import Checkpoint
from models.checkpoints.weights import CheckpointError
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.request_params import check_defaults

log = structlog.get_logger()


def check_servable(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, if requests can be answered with it, and its own defaults make sense.

    Raises:
        CheckpointError: they cannot.
        InvalidParam: they do not.
    """
    if checkpoint.info.image is not None:
        checkpoint.check_pixels()
    elif checkpoint.text is None:
        raise CheckpointError(f"{checkpoint.info.name}: tokenizer.json is missing")
    check_defaults(checkpoint.defaults)
    return checkpoint


def warm_up(checkpoint: Checkpoint) -> None:
    """One short run, so that the first request does not pay for first-use set-up; and a look at
    what the chat template does with a system message.
    """
    chat = None if checkpoint.text is None else checkpoint.text.chat
    if chat is not None:
        chat.probe_system()
        if chat.shows_system is False:
            name = checkpoint.info.name
            log.warning("the chat template drops or refuses system messages", model=name)
    info = checkpoint.info
    params = make_params(steps=1, top_p=0.9)
    sampler = SAMPLERS[params.sampler].make(info.vocab_size, info.mask_id, checkpoint.ends)
    length = min(64, info.max_length) if info.image is None else info.image.length
    canvas = ([0] * length, [True] * length, params)
    batch = sampler.begin(CanvasBatch.of([canvas], checkpoint.device))
    for _ in range(2):
        batch = take_step(sampler, checkpoint.model, batch).batch
