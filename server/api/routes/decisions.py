"""POST /v1/decisions: probabilities of the answers to closed questions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request

from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.conversations import ids_of_chat
from server.api.jobs.decisions import (
    Decision,
    answer_to,
    candidates_of,
    request_of,
)
from server.api.jobs.prompts import check_bytes, ids_of
from server.api.jobs.waiting import marginals_of, unless_gone
from server.api.routes.models import text_model
from server.api.schemas.decisions import DecisionsBody, Question
from server.api.schemas.messages import Message
from server.api.schemas.responses.decisions import Decisions
from server.api.schemas.responses.openapi import GENERATING, says
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import offload

router = APIRouter(prefix="/v1/decisions", tags=["text"], route_class=JsonRoute)

CUE = "\nAnswer:"
"""Ends the prompt of a checkpoint without a chat template; its answers begin with a blank."""


@router.post(
    "",
    summary="Decide questions",
    response_model=None,
    responses=says(Decisions, *GENERATING),
)
async def decide(body: DecisionsBody, request: Request) -> Decisions:
    """Reads the probabilities of the answers to closed questions about an input."""
    state = text_model(State.of(request), body.model)
    _check_model(state)
    decisions = [await _decision(request, state, body, n) for n in range(len(body.questions))]
    _check_work(state, decisions)
    canvases = await unless_gone(request, _read(state, decisions))
    prompts = sum(len(decision.prompt) for decision in decisions)
    positions = sum(decision.length for decision in decisions)
    return {
        "id": f"decisions-{secrets.token_hex(12)}",
        "object": "decisions",
        "created": int(time.time()),
        "model": state.checkpoint.info.name,
        "steps": max(len(decision.fixed) for decision in decisions),
        "answers": [
            answer_to(question, decision)
            for question, decision in zip(body.questions, decisions, strict=True)
        ],
        "usage": {
            "input_tokens": prompts,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": positions,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompts + positions,
            "canvases": canvases,
        },
    }


def _check_model(state: State) -> None:
    """Refuse models whose marginals on one canvas of masks are not those of a text.

    Raises:
        ApiError: 400 naming the model.
    """
    info = state.checkpoint.info
    for lacks, why in (
        (info.mask_id is None, "has no mask"),
        (not state.checkpoint.ends, "has no end token"),
        (info.block_length is not None or info.canvas_length is not None, "generates in blocks"),
    ):
        if lacks:
            raise ApiError(400, f"model {info.name} {why}: it makes no decisions", param="model")


async def _decision(request: Request, state: State, body: DecisionsBody, n: int) -> Decision:
    """Question ``n`` with its prompt and its answers as ids.

    Raises:
        ApiError: 400 naming the field.
    """
    question, info = body.questions[n], state.checkpoint.info
    tokenizer, options = state.checkpoint.tokenizer, question.options()
    limits.check_texts("questions", options, info.max_length)
    *before, last = [message.content for message in body.input]
    text = f"{last}\n\n{question.told()}" if last else question.told()
    if tokenizer.chat is None:
        prompt = "\n\n".join([*before, text]) + CUE
        check_bytes(state, [prompt], "input")
        ids = await offload(len(prompt), ids_of, state, prompt, "input")
        options = [f" {option}" for option in options]
    else:
        talk = [Message.model_construct(role="user", content=t) for t in (*before, text)]
        ids = await ids_of_chat(request, state, talk, to_fill=True, field="input")
    size = sum(map(len, options))
    written = await offload(size, lambda: [tokenizer.encode_behind(option) for option in options])
    _check_written(written, question, n)
    decision = Decision(ids, written, state.checkpoint.ends, body.steps, _mask(state))
    if len(ids) + decision.length > info.max_length:
        raise ApiError(
            400,
            f"the canvas has {info.max_length} positions; the prompt of questions[{n}] takes "
            f"{len(ids)} and its answers {decision.length}",
            param="input",
            code="context_length_exceeded",
        )
    return decision


def _mask(state: State) -> int:
    mask = state.checkpoint.info.mask_id
    assert mask is not None
    return mask


def _check_written(written: Sequence[list[int]], question: Question, n: int) -> None:
    """Refuse answers without tokens, and answers with the same tokens.

    Raises:
        ApiError: 400 naming the question.
    """
    options = question.options()
    seen: dict[tuple[int, ...], str] = {}
    for option, ids in zip(options, written, strict=True):
        other = seen.setdefault(tuple(ids), option)
        if not ids or other is not option:
            why = "has no tokens" if not ids else f"has the same tokens as {other[:64]!r}"
            raise ApiError(400, f"questions[{n}]: {option[:64]!r} {why}", param="questions")


def _check_work(state: State, decisions: Sequence[Decision]) -> None:
    """Refuse more positions than the limit.

    Raises:
        ApiError: 400.
    """
    work, most = sum(decision.most_positions for decision in decisions), state.settings.max_work
    if work > most:
        raise limits.exceeded("questions", "the number of positions of all canvases", work, most)


async def _read(state: State, decisions: Sequence[Decision]) -> int:
    """Take all steps of some questions; returns the number of canvases.

    Raises:
        ApiError: 429 if the queue is full; 500 or 503 if reading failed.
    """
    candidates, canvases = candidates_of(decisions), 0
    columns = {id_: column for column, id_ in enumerate(candidates)}
    for step in range(max(len(decision.fixed) for decision in decisions)):
        under_way = [decision for decision in decisions if step < len(decision.fixed)]
        asked = request_of(under_way, step, candidates)
        found = iter(await marginals_of(state.engine, asked))
        for decision in under_way:
            count = len(decision.canvases(step))
            decision.take(step, [next(found) for _ in range(count)], columns)
        canvases += len(asked.canvases)
    return canvases
