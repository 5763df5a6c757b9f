"""POST /v1/completions: text after a prompt or in its holes, complete or streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool, StrictInt, StrictStr

from sampler.logits.row_reader import MOST_LIKELY
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.chunks import ChunkJob
from server.api.jobs.constraints import Constraint, constraint_of
from server.api.jobs.formats import AnswerFormat, Head
from server.api.jobs.prompts import Prompt, check_bytes, ids_of
from server.api.routes.models import text_model
from server.api.schemas.neutral import COMPLETION
from server.api.schemas.requests import TextFields, View
from server.api.schemas.responses.common import Usage
from server.api.schemas.responses.openapi import GENERATING, says
from server.api.schemas.responses.text import (
    Completion,
    CompletionChunk,
    TextChoice,
    TextLogProbs,
    TextPiece,
)
from server.api.schemas.strict import Ids
from server.http.errors import ApiError
from server.http.json_body import JsonRoute
from server.http.offload import offload
from server.output.logprobs import TokenLogProb, by_label, finite
from server.output.records import FinishReason

router = APIRouter(prefix="/v1/completions", tags=["text"], route_class=JsonRoute)


Texts = Annotated[list[StrictStr], Field(fail_fast=True)]
Prompts = StrictStr | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True)]


class CompletionBody(TextFields):
    """The body of POST /v1/completions."""

    neutral: ClassVar = COMPLETION

    prompt: Prompts
    suffix: StrictStr | None = None
    infill: StrictBool = False
    echo: StrictBool = False
    logprobs: StrictInt | None = Field(default=None, ge=0, le=MOST_LIKELY)
    samples: StrictInt | None = Field(default=None, ge=1)

    def alternatives(self) -> int | None:
        """See ``TextFields``."""
        return self.logprobs

    def view(self) -> View:
        """See ``TextFields``."""
        return replace(super().view(), samples=self.prompt_samples())

    def prompt_samples(self) -> int | None:
        """Monte Carlo samples for the prompt's log-probabilities, if the body chooses them.

        Raises:
            ApiError: 400 if none are returned.
        """
        if self.samples is not None and (not self.echo or self.logprobs is None):
            raise ApiError(400, "samples needs echo: true and logprobs", param="samples")
        return self.samples

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each as text or as ids.

        Raises:
            ApiError: 400 for an empty list.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise ApiError(400, "prompt is an empty list", param="prompt")
        ids = [part for part in self.prompt if isinstance(part, int)]
        return [ids] if ids else [part for part in self.prompt if not isinstance(part, int)]


TextChoiceT = TypeVar("TextChoiceT", bound=TextChoice)


class TextFormat(AnswerFormat[TextChoiceT, TextPiece]):
    """OpenAI's text completion objects, around choices that may have further fields."""

    tells_end: ClassVar = True

    def piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: Sequence[TokenLogProb],
        samples: int,
    ) -> TextPiece:
        """See ``AnswerFormat``."""
        logprobs = logprobs_of(tokens, samples)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def answer(self, head: Head, choices: list[TextChoiceT], usage: Usage) -> Completion:
        """See ``AnswerFormat``."""
        return {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "choices": [*choices],
            "seed": head.seed,
            "usage": usage,
        }

    def chunk(self, head: Head, choices: list[TextPiece]) -> CompletionChunk:
        """See ``AnswerFormat``."""
        return {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "seed": head.seed,
        }


class CompletionFormat(TextFormat[TextChoice]):
    """OpenAI's text completion objects."""

    prefix: ClassVar = "cmpl-"

    def choice(
        self,
        index: int,
        text: str,
        reason: FinishReason,
        tokens: Sequence[TokenLogProb],
        samples: int,
        canvas: Sequence[int],
    ) -> TextChoice:
        """See ``AnswerFormat``."""
        return text_choice(index, text, reason, tokens, samples)


def text_choice(
    index: int, text: str, reason: FinishReason, tokens: Sequence[TokenLogProb], samples: int
) -> TextChoice:
    """A complete choice; see ``AnswerFormat``."""
    logprobs = logprobs_of(tokens, samples)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def logprobs_of(tokens: Sequence[TokenLogProb], samples: int) -> TextLogProbs | None:
    """OpenAI's object for log-probabilities; None where there are none."""
    if not tokens:
        return None
    found = [token.logprobs for token in tokens]
    logprobs: TextLogProbs = {
        "tokens": [token.token.label for token in tokens],
        "token_logprobs": [None if t is None else finite(t.log_p) for t in found],
        "top_logprobs": [by_label(token) or None for token in tokens],
        "text_offset": [token.offset for token in tokens],
        "steps": [None if t is None else t.step for t in found],
        "entropies": [None if t is None else t.entropy for t in found],
    }
    if samples:
        logprobs["prompt_samples"] = samples
    return logprobs


@router.post(
    "",
    summary="Create a completion",
    responses=says(Completion, *GENERATING, stream=CompletionChunk),
)
async def complete(body: CompletionBody, request: Request) -> Response:
    """Generates text after a prompt, in its holes, or between a prompt and a suffix."""
    state = text_model(State.of(request), body.model)
    constraint = await constraint_of(request, state, body)
    job = await offload(len(await request.body()), job_of, state, body, constraint)
    return await job.respond(request, bool(body.stream))


def job_of(
    state: State, body: CompletionBody, constraint: Constraint | None
) -> ChunkJob[TextChoice, TextPiece]:
    """The job of a body with its constraint.

    Raises:
        ApiError: 400 naming the field.
    """
    return ChunkJob(state, body, CompletionFormat(), prompts_of(state, body), constraint)


def prompts_of(state: State, body: CompletionBody) -> list[Prompt]:
    """The prompts of a body, as token ids.

    Raises:
        ApiError: 400 naming the field.
    """
    check_bytes(state, [body.suffix or ""], "suffix")
    suffix = state.checkpoint.tokenizer.encode_behind(body.suffix or "")
    hole = state.checkpoint.info.mask_id if body.infill else None
    if body.infill and hole is None:
        raise ApiError(400, "infill needs a model with a mask", param="infill")
    if body.echo and (body.suffix or body.infill):
        raise ApiError(400, "echo is not supported with suffix or infill", param="echo")
    prompts, asked = [], body.prompts()
    limits.check_choices(state.settings, body.n or 1, len(asked))  # before texts become ids
    for given in asked:
        ids, start = _ids(state, given, body.infill), 0
        tokenizer, echo = state.checkpoint.tokenizer, None
        if isinstance(given, str):
            start = len(tokenizer.start)
        if body.echo:
            echo = given if isinstance(given, str) else tokenizer.decode(ids)
        prompts.append(Prompt(ids, suffix, hole, echo, start))
    return prompts


def _ids(state: State, prompt: str | list[int], infill: bool) -> list[int]:
    """Token ids of a prompt.

    Raises:
        ApiError: 400 for ids outside the vocabulary, or masks without ``infill``.
    """
    if infill and isinstance(prompt, str):
        raise ApiError(400, "infill needs a prompt of token ids", param="infill")
    return ids_of(state, prompt, "prompt", None if infill else "; set infill: true to fill masks")
