"""POST /v1/score: an upper bound of a text's negative log-likelihood, with a standard error."""

from __future__ import annotations

import secrets
import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool, StrictInt, StrictStr

from sampler.params import SEED_LIMIT, InvalidParam
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.prompts import checked_ids, granted_samples
from server.api.jobs.waiting import scored, unless_gone
from server.api.routes.models import text_model
from server.api.schemas.requests import refused
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.score import Score
from server.api.schemas.strict import Ids, Number, StrictBody
from server.engine.score_request import ScoreRequest, score_params, score_request
from server.http.json_body import JsonRoute
from server.http.offload import offload
from server.output.score import score_record

router = APIRouter(prefix="/v1/score", tags=["text"], route_class=JsonRoute)


class ScoreBody(StrictBody):
    """The body of POST /v1/score."""

    model: str | None = None
    text: StrictStr | Ids
    prompt: StrictStr | Ids | None = None
    end: StrictBool = False
    estimator: Literal["nelbo", "llada"] = "nelbo"
    samples: StrictInt | None = Field(default=None, ge=1)
    mixing_ratio: Number | None = Field(default=None, ge=0, le=1)
    seed: StrictInt | None = Field(default=None, ge=-SEED_LIMIT, lt=SEED_LIMIT)


@router.post(
    "",
    summary="Score a text",
    response_model=None,
    responses=says(Score, *GENERATING),
)
async def score(body: ScoreBody, request: Request) -> Score:
    """Estimates an upper bound of the negative log-likelihood of a text, given a prompt or not."""
    state = text_model(State.of(request), body.model)
    wanted = await offload(len(await request.body()), _request, state, body)
    found = await unless_gone(request, scored(state.engine, wanted))
    return {
        "id": f"score-{secrets.token_hex(12)}",
        "object": "score",
        "created": int(time.time()),
        "model": state.checkpoint.info.name,
        **score_record(state.checkpoint, wanted, found),
    }


def _request(state: State, body: ScoreBody) -> ScoreRequest:
    """The engine's request for a body.

    Raises:
        ApiError: 400 naming the field.
    """
    chosen = body.model_dump(include={"estimator", "mixing_ratio", "seed"})
    chosen["samples"] = granted_samples(state, body.samples)
    canvas = state.checkpoint.info.max_length
    for field, given in (("text", body.text), ("prompt", body.prompt)):
        if isinstance(given, str):
            limits.check_texts(field, [given], canvas)
        elif given is not None and len(given) > canvas:
            raise limits.exceeded(field, f"the number of ids of {field}", len(given), canvas)
        elif given is not None:
            checked_ids(state, given, field)
    try:
        params = score_params(state.defaults, chosen, state.checkpoint.info.mask_id)
        return score_request(state.checkpoint, body.text, body.prompt, body.end, params)
    except InvalidParam as error:
        raise refused(error) from None
