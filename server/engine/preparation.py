"""A request made to fit a checkpoint, before it is queued."""

from __future__ import annotations

from dataclasses import replace

from models.interface import ModelInfo
from sampler.batch import given_before
from sampler.params import BlockParams, InvalidParam
from server.engine.caching import Caching
from server.engine.events import GenerationRequest
from server.engine.request_params import ModelKind


def prepared(request: GenerationRequest, caching: Caching) -> GenerationRequest:
    """A request with the positions that complete its last block, and no more steps than it can
    take.

    Raises:
        InvalidParam: a block length or a sampler that the network was not trained for, too few
            steps, or a cache that cannot be had.
    """
    info, own = caching.info, request.params.own
    for name, ids in (("draft", request.draft), ("pinned", request.pinned)):
        if ids and info.canvas_length is None:
            reason = f"needs a model that denoises canvases of uniform noise; {info.name} does not"
            raise InvalidParam(name, reason)
    if info.block_length is not None:
        _check_blocks(request, info, info.block_length)
        room = info.max_length - len(request.tokens)
        request = replace(request, spare=min(-len(request.tokens) % info.block_length, room))
    elif (length := info.canvas_length) is not None:
        _check_canvases(request, info, length)
        _check_opening(request, info, length)
        new, room = sum(request.editable), info.max_length - len(request.tokens)
        request = replace(request, spare=min(-new % length, room))
    free = sum(request.editable) + request.spare + own.first_rank(given_before(request.editable))
    own.check_canvas(request.params.steps, free)
    if (most := own.most_steps(free)) < request.params.steps:
        request = replace(request, params=request.params.changed(steps=most))
    caching.check(request)
    return request


def _check_blocks(request: GenerationRequest, info: ModelInfo, length: int) -> None:
    """Refuse what a network with block-causal attention cannot do."""
    if not isinstance(own := request.params.own, BlockParams):
        usable = " or ".join(ModelKind.of(info).samplers)
        raise InvalidParam("sampler", f"must be {usable}: {info.name} generates in blocks")
    _check_length(own, info, length)


def _check_canvases(request: GenerationRequest, info: ModelInfo, length: int) -> None:
    """Refuse what a network that encodes its prompt cannot do."""
    own = request.params.own
    assert isinstance(own, BlockParams)  # other samplers are refused before
    _check_length(own, info, length)
    if request.region is not None:
        raise InvalidParam("sampler", f"of {info.name} writes no constrained text")
    if not all(request.editable[given_before(request.editable) :]):
        reason = f"must be empty: {info.name} encodes what comes before its text, and nothing after"
        raise InvalidParam("suffix", reason)


def _check_opening(request: GenerationRequest, info: ModelInfo, length: int) -> None:
    """Refuse given tokens that have no place, or that the request's own choices exclude."""
    free = sum(request.editable)
    if len(request.draft) > (most := min(length, free)):
        reason = f"has {len(request.draft)} positions; the first canvas of this text has {most}"
        raise InvalidParam("draft", reason)
    if len(request.pinned) > free:
        raise InvalidParam("pinned", f"has {len(request.pinned)} positions; the text has {free}")
    endless = getattr(request.params.own, "logits_eos_inf", False)
    if endless and info.eos_id in request.pinned:
        raise InvalidParam("pinned", f"has the end token {info.eos_id}; logits_eos_inf excludes it")


def _check_length(own: BlockParams, info: ModelInfo, length: int) -> None:
    """Refuse blocks of another length than the network's."""
    if own.block_length != length:
        reason = f"must be {length}, with which {info.name} was trained; got {own.block_length}"
        raise InvalidParam("block_length", reason)
