"""A request made to fit a checkpoint, before it is queued."""

from __future__ import annotations

from dataclasses import replace

from models.interface import ModelInfo
from sampler.batch import given_before
from sampler.params import BlockParams, InvalidParam
from server.engine.caching import Caching
from server.engine.events import GenerationRequest
from server.engine.request_params import samplers_for


def prepared(request: GenerationRequest, caching: Caching) -> GenerationRequest:
    """A request with the positions that complete its last block, and no more steps than it can
    take.

    Raises:
        InvalidParam: a block length or a sampler that the network was not trained for, too few
            steps, or a cache that cannot be had.
    """
    info, own = caching.info, request.params.own
    if info.block_length is not None:
        _check_blocks(request, info, info.block_length)
        room = info.max_length - len(request.tokens)
        request = replace(request, spare=min(-len(request.tokens) % info.block_length, room))
    free = sum(request.editable) + request.spare + own.first_rank(given_before(request.editable))
    own.check_canvas(request.params.steps, free)
    if (most := own.most_steps(free)) < request.params.steps:
        request = replace(request, params=request.params.changed(steps=most))
    caching.check(request)
    return request


def _check_blocks(request: GenerationRequest, info: ModelInfo, length: int) -> None:
    """Refuse what a network with block-causal attention cannot do."""
    own = request.params.own
    if not isinstance(own, BlockParams):
        usable = " or ".join(samplers_for(True, in_blocks=True))
        raise InvalidParam("sampler", f"must be {usable}: {info.name} generates in blocks")
    if own.block_length != length:
        reason = f"must be {length}, with which {info.name} was trained; got {own.block_length}"
        raise InvalidParam("block_length", reason)
