"""/v1/diffusion/trajectories: the denoising process itself, recorded as it happens; to be followed
live, taken up again where a connection broke, and read again for a while.
"""

from __future__ import annotations

import re
import time
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response

from sampler import SAMPLERS
from sampler.params import OWNERS, param_names
from server.errors import ApiError
from server.recording import Recording
from server.routes.answers import GENERATING, says
from server.routes.body import JsonRoute
from server.routes.completions import CompletionBody, CompletionForm, prompts_of
from server.routes.following import SSE, Followed, wanted_form
from server.routes.generation import Generation
from server.routes.reader import View
from server.routes.recorder import KIND, Recorder
from server.routes.trajectory_answers import HEADERS, Deleted, recorded
from server.state import State

router = APIRouter(prefix="/v1/diffusion/trajectories", tags=["text"], route_class=JsonRoute)
PARAMETERS = {"parameters": HEADERS}

EVENT_ID = re.compile(r"(traj-[0-9a-f]{24}):([0-9]{1,9})")


class TrajectoryBody(CompletionBody):
    """The body of POST /v1/diffusion/trajectories: the same as for a completion.

    It is a stream of diffs with its usage whatever ``stream``, ``stream_options`` and
    ``trajectory`` say.
    """

    def view(self) -> View:
        """See ``TextFields``."""
        if self.diffusing:
            raise ApiError(400, "diffusing is not for trajectories", param="diffusing")
        return View(
            stops=self.stop or [],
            alternatives=self.alternatives(),
            samples=self.prompt_samples(),
            trajectory=True,
        )

    def resolved(self, generation: Generation) -> dict[str, Any]:
        """The body with all that was left open filled in: sent again, it gives the same tokens."""
        apart = {"logprobs", "logit_bias"}
        params = {
            name: getattr(generation.params, name)
            for name in param_names()
            if name in TrajectoryBody.model_fields
            and name not in apart
            and generation.params.sampler in OWNERS.get(name, tuple(SAMPLERS))
        }
        form = {"stream", "stream_options", "trajectory", "diffusing", "user"}
        asked = self.model_dump(exclude_none=True, exclude=form) | params
        asked["model"] = generation.model
        lengths = {
            len(request.tokens) - prompt.size
            for request, prompt in zip(generation.requests, generation.prompts, strict=True)
        }
        if len(lengths) == 1:  # else each prompt has what its canvas has room for
            asked["max_tokens"] = lengths.pop()
        return {name: value for name, value in asked.items() if value is not None}


class TrajectoryForm(CompletionForm):
    """Choices as completions have them."""

    prefix: ClassVar = "traj"


@router.post(
    "",
    summary="Watch a text being denoised",
    responses=recorded(*GENERATING, 406),
    openapi_extra=PARAMETERS,
)
async def record(body: TrajectoryBody, request: Request) -> Response:
    """Start a run and follow it; or go on with one that ``Last-Event-ID`` names."""
    state, form = State.of(request), wanted_form(request)
    if given := _last_event_id(request):
        return _continued(state, form, *given)
    generation = Generation(state, body, TrajectoryForm, prompts_of(state, body))
    info = state.checkpoint.info
    recording = Recorder(state, generation).start(
        request_id=request.scope["request_id"],
        request=body.resolved(generation),
        mask={"id": info.mask_id, "text": state.checkpoint.tokenizer.piece(info.mask_id)},
    )
    return Followed(recording, 0, form, state.settings)


@router.get(
    "/{id_}",
    summary="Follow or replay a trajectory",
    responses=recorded(400, 401, 404, 406, 500),
    openapi_extra=PARAMETERS,
)
async def replay(id_: str, request: Request) -> Response:
    """All that was recorded, or what came behind ``Last-Event-ID``; a run under way is followed to
    its end.
    """
    state, form = State.of(request), wanted_form(request)
    recording = _found(state, id_)
    given = _last_event_id(request)
    if given is None:
        return Followed(recording, 0, form, state.settings)
    if given[0] != id_:
        raise _bad_event_id(f"names another trajectory than {id_}")
    return _continued(state, form, *given)


@router.delete(
    "/{id_}",
    summary="Cancel or forget a trajectory",
    response_model=None,
    responses=says(Deleted, 401, 404, 500),
)
async def delete(id_: str, request: Request) -> dict[str, Any]:
    """Cancel a run, or forget one that has ended."""
    state = State.of(request)
    recording = _found(state, id_)
    running = not recording.ended
    if running:
        recording.cancel("cancelled", "the trajectory was cancelled")
    else:
        state.trajectories.forget(id_)
    return {"id": id_, "object": KIND, "status": "cancelled" if running else "deleted"}


def _found(state: State, id_: str) -> Recording:
    recording = state.trajectories.get(id_, time.monotonic())
    if recording is None:
        message = "there is no such trajectory; finished ones are kept for a while only"
        raise ApiError(404, message, param="id", code="trajectory_not_found")
    return recording


def _continued(state: State, form: str, id_: str, last: int) -> Response:
    """What came behind a recording's event."""
    recording = _found(state, id_)
    start = last + 1
    if start > len(recording.records):
        raise _bad_event_id("names an event that has not been")
    if form == SSE and recording.ended and start == len(recording.records):
        return Response(status_code=204)  # tells an EventSource not to come back
    return Followed(recording, start, form, state.settings)


def _last_event_id(request: Request) -> tuple[str, int] | None:
    """The trajectory and the number of the event that a client has seen last, if it says so.

    Raises:
        ApiError: 400 for what is no event's id.
    """
    given = request.headers.get("last-event-id", "")
    if not given:
        return None
    found = EVENT_ID.fullmatch(given)
    if found is None:
        raise _bad_event_id("is no id of an event")
    return found[1], int(found[2])


def _bad_event_id(what: str) -> ApiError:
    return ApiError(400, f"Last-Event-ID {what}", param="Last-Event-ID", code="invalid_value")
