"""/v1/diffusion/trajectories: recorded runs, followed live, resumed or replayed."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt

from models.interface import ModelInfo
from sampler.params import params_in
from server.api.context import State
from server.api.jobs.chunks import ChunkJob
from server.api.jobs.constraints import Constraint, constraint_of
from server.api.jobs.following import SSE, Followed, wanted_form
from server.api.jobs.image import ImageJob, label_of
from server.api.jobs.recorder import KIND, Recorder
from server.api.routes.completions import (
    CompletionBody,
    Prompts,
    TextFormat,
    prompts_of,
    text_choice,
)
from server.api.routes.models import any_model, grid_of, makes_images, mask_of
from server.api.schemas.constraints import ConstraintFields
from server.api.schemas.requests import View
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.text import TextPiece
from server.api.schemas.responses.trajectories import (
    HEADERS,
    Deleted,
    FinishedChoice,
    Origin,
    recorded,
)
from server.http.api_keys import owner_of
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import offload
from server.output.logprobs import TokenLogProb
from server.output.records import FinishReason
from server.trajectories.recording import Recording

router = APIRouter(prefix="/v1/diffusion/trajectories", tags=["text"], route_class=JsonRoute)
PARAMETERS = {"parameters": HEADERS}

EVENT_ID = re.compile(r"(traj-[0-9a-f]{24,36}):([0-9]{1,9})")


TEXT_ONLY = (
    *(
        "suffix",
        "infill",
        "draft",
        "pinned",
        "max_tokens",
        "stop",
        "ignore_eos",
        "echo",
        "logprobs",
    ),
    *("samples", "logit_bias", "diffusing", "trajectory_guesses", *ConstraintFields.model_fields),
)


class TrajectoryBody(CompletionBody):
    """The body of POST /v1/diffusion/trajectories: of a completion, or of an image.

    The response is always a stream of step records with the usage; ``stream``, ``stream_options``
    and ``trajectory`` change nothing.
    """

    prompt: Prompts | None = None  # type: ignore[assignment]
    class_label: StrictInt | None = None
    class_labels: Annotated[list[StrictInt], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1
    )
    trajectory_guesses: StrictBool = False

    def view(self) -> View:
        """See ``TextFields``."""
        if self.diffusing:
            raise ApiError(400, "diffusing is not supported for trajectories", param="diffusing")
        return View(
            stops=self.stop or [],
            alternatives=self.alternatives(),
            samples=self.prompt_samples(),
            trajectory=True,
            guesses=self.trajectory_guesses,
        )

    def job(self, state: State, constraint: Constraint | None = None) -> RecordedText | ImageJob:
        """The job to record, of text or of images by the model's kind; ``constraint``: of texts.

        Raises:
            ApiError: 400 naming the field, also for fields of the other kind.
        """
        if makes_images(state.engine):
            for name in TEXT_ONLY:
                if getattr(self, name):
                    raise ApiError(400, f"{name} is not supported for images", param=name)
            if not isinstance(self.prompt, str | None):
                raise ApiError(400, "prompt must name a class", param="prompt")
            return ImageJob(
                state,
                self,
                TrajectoryFormat.prefix,
                labels=self._labels(state.checkpoint.info, self.prompt),
                count=self.n or 1,
                budget=self.latency_budget_ms,
                wants_steps=True,
            )
        for name in ("class_label", "class_labels"):
            if getattr(self, name) is not None:
                raise ApiError(400, f"{name} is only supported for images", param=name)
        if self.prompt is None:
            raise ApiError(400, "prompt: Field required", param="prompt", code="invalid_value")
        prompts = prompts_of(state, self)
        return ChunkJob(state, self, TrajectoryFormat(), prompts, constraint)

    def _labels(self, info: ModelInfo, prompt: str | None) -> list[int]:
        if self.class_labels is None:
            return [label_of(info, self.class_label, prompt)]
        for name in ("class_label", "prompt"):
            if getattr(self, name) is not None:
                raise ApiError(400, f"{name} and class_labels exclude each other", param=name)
        return [label_of(info, label, None, "class_labels") for label in self.class_labels]

    def resolved(self, job: RecordedText | ImageJob) -> dict[str, Any]:
        """The body with all defaults filled in; sent again, it gives the same tokens."""
        params = {"sampler": job.params.sampler} | {
            name: getattr(declaring, name)
            for declaring in (job.params, job.params.own)
            for name in params_in(declaring)
            if name in TrajectoryBody.model_fields
        }
        form = {"stream", "stream_options", "trajectory", "trajectory_guesses", "diffusing", "user"}
        asked = self.model_dump(exclude_none=True, exclude=form) | params
        asked["model"] = job.head.model
        if isinstance(job, ImageJob):
            left_out = (*TEXT_ONLY, "class_label") if self.class_labels else TEXT_ONLY
            asked = {name: value for name, value in asked.items() if name not in left_out}
        else:
            lengths = {
                len(request.tokens) - prompt.size
                for request, prompt in zip(job.requests, job.prompts, strict=True)
            }
            if len(lengths) == 1:  # else each prompt has what its canvas has room for
                asked["max_tokens"] = lengths.pop()
        return {name: value for name, value in asked.items() if value is not None}


class TrajectoryFormat(TextFormat[FinishedChoice]):
    """Builds choices like those of completions, with the ids of the canvas."""

    prefix: ClassVar = "traj-"

    def choice(
        self,
        index: int,
        text: str,
        reason: FinishReason,
        tokens: Sequence[TokenLogProb],
        samples: int,
        canvas: Sequence[int],
    ) -> FinishedChoice:
        """See ``AnswerFormat``."""
        return {**text_choice(index, text, reason, tokens, samples), "ids": list(canvas)}


RecordedText = ChunkJob[FinishedChoice, TextPiece]


@router.post(
    "",
    summary="Record a denoising run",
    responses=recorded(*GENERATING, 406),
    openapi_extra=PARAMETERS,
)
async def record(body: TrajectoryBody, request: Request) -> Response:
    """Starts a run and streams its events, or resumes after the event ``Last-Event-ID``."""
    state, form = State.of(request), wanted_form(request)
    if given := _last_event_id(request):
        return _continued(request, form, *given)
    state = any_model(state, body.model)
    constraint = None
    if not makes_images(state.engine):
        constraint = await constraint_of(request, state, body)
    job = await offload(len(await request.body()), body.job, state, constraint)
    info, owner = state.checkpoint.info, owner_of(request.scope)
    origin: Origin = {
        "request_id": request.scope["request_id"],
        "request": body.resolved(job),
        "mask": mask_of(state.checkpoint),
        "ends": list(state.checkpoint.ends),
        "image": None if info.image is None else grid_of(info.image),
    }
    recording = Recorder[Any](state, job, owner).start(origin)
    return Followed(recording, 0, form, state.settings)


@router.get(
    "/{id_}",
    summary="Follow or replay a trajectory",
    responses=recorded(400, 401, 404, 406, 429, 500),
    openapi_extra=PARAMETERS,
)
async def replay(id_: str, request: Request) -> Response:
    """Returns the recorded events, all or after ``Last-Event-ID``; follows a run to its end."""
    form = wanted_form(request)
    recording = _found(request, id_)
    given = _last_event_id(request)
    if given is None:
        return Followed(recording, 0, form, State.of(request).settings)
    if given[0] != id_:
        raise _bad_event_id(f"is not an event of {id_}")
    return _continued(request, form, *given)


@router.delete(
    "/{id_}",
    summary="Cancel or delete a trajectory",
    response_model=None,
    responses=says(Deleted, 401, 404, 500),
)
async def delete(id_: str, request: Request) -> Deleted:
    """Cancels a running trajectory, or deletes a finished one."""
    recording = _found(request, id_)
    running = not recording.ended
    if running:
        recording.cancel("cancelled", "the trajectory was cancelled")
    else:
        State.of(request).trajectories.forget(id_)
    return {"id": id_, "object": KIND, "status": "cancelled" if running else "deleted"}


def _found(request: Request, id_: str) -> Recording:
    """A recording that the request's key may read; recordings of other keys are not found.

    Raises:
        ApiError: 404.
    """
    trajectories = State.of(request).trajectories
    recording = trajectories.get(id_, time.monotonic(), owner_of(request.scope))
    if recording is None:
        message = "no such trajectory; finished trajectories are deleted after a while"
        raise ApiError(404, message, param="id", code="trajectory_not_found")
    return recording


def _continued(request: Request, form: str, id_: str, last: int) -> Response:
    """The events of a recording after event number ``last``."""
    recording = _found(request, id_)
    start = last + 1
    if start > len(recording.records):
        raise _bad_event_id("is ahead of the recording")
    if form == SSE and recording.ended and start == len(recording.records):
        return Response(status_code=204)  # tells an EventSource not to come back
    return Followed(recording, start, form, State.of(request).settings)


def _last_event_id(request: Request) -> tuple[str, int] | None:
    """The trajectory and event number of ``Last-Event-ID``, if it is given.

    Raises:
        ApiError: 400 if it is not an event id.
    """
    given = request.headers.get("last-event-id", "")
    if not given:
        return None
    found = EVENT_ID.fullmatch(given)
    if found is None:
        raise _bad_event_id("is not a valid event id")
    return found[1], int(found[2])


def _bad_event_id(what: str) -> ApiError:
    return ApiError(400, f"Last-Event-ID {what}", param="Last-Event-ID", code="invalid_value")
