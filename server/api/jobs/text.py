"""Text generation jobs: checked requests, their answer and their stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic

from models.tokenization.tokenizer import TokenizerError
from sampler import SAMPLERS
from sampler.likelihood.monte_carlo import ScoreParams
from sampler.params import InvalidParam
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.base import Job, seeds_of
from server.api.jobs.choices import Piece, TextReader
from server.api.jobs.constraints import Constraint, check_with
from server.api.jobs.formats import ChoiceFormat, ChoiceT, PieceT
from server.api.jobs.prompts import Prompt, echo_of, granted_samples, opened
from server.api.jobs.waiting import together
from server.api.schemas.requests import StreamOptions, TextFields, refused
from server.api.schemas.responses.common import Usage, UsageSoFar
from server.engine.events import Done, Failed, GenerationRequest, Step
from server.engine.preparation import prepared
from server.engine.request_params import ModelKind, default_length, default_of, defaults_of
from server.engine.score_request import check_scorable
from server.engine.stream import Subscription
from server.http.errors import ApiError


class TextJob(Job[TextReader[ChoiceT, PieceT]], Generic[ChoiceT, PieceT]):
    """A job that generates text: one request for each choice of a body."""

    def __init__(
        self,
        state: State,
        body: TextFields,
        form: ChoiceFormat[ChoiceT, PieceT],
        prompts: Sequence[Prompt],
        constraint: Constraint | None = None,
    ) -> None:
        """Check a body. ``constraint``: of its texts.

        Raises:
            ApiError: naming the field.
        """
        self.form, self.view = form, body.view()
        kind = ModelKind.of(state.checkpoint.info)
        if constraint is not None:
            check_with(constraint.field, body)
        bound = None if constraint is None else constraint.field
        params = body.sampling_params(state.defaults, kind, bound)
        biases = body.biases(state.checkpoint.info.vocab_size)
        try:
            tells = self.view.alternatives is not None
            params = replace(params, logprobs=tells, guesses=self.view.guesses, logit_bias=biases)
        except InvalidParam as error:
            raise refused(error) from None
        usual = defaults_of(state.defaults, params.sampler)
        if len(prompts) > 1 and body.seed is None and "seed" not in usual:
            params = replace(params, seed=-max(1, params.seed))  # all choices get different noise
        super().__init__(state, form.prefix, params, body.latency_budget_ms)
        self.names, self._constraint = body.names, constraint
        self.stream_options = body.stream_options or StreamOptions()
        self.samples = granted_samples(state, self.view.samples)
        self.count = count = body.n or 1
        self.check_choices(count, len(prompts))
        limits.check_stops(state.settings, self.view.stops, body.names.stop)
        self._draft = opened(state, body.draft, "draft")
        self._pinned = opened(state, body.pinned, "pinned")
        self.prompts = [prompt for prompt in prompts for _ in range(count)]
        self.prompt_tokens = sum(prompt.size for prompt in prompts)
        if self.view.alternatives is not None and any(p.echo is not None for p in prompts):
            try:
                check_scorable(state.checkpoint.info)
            except InvalidParam as error:
                raise refused(error) from None
        seeds = seeds_of(self.params.seed, len(prompts), count)
        self.requests = [
            self._request(body, prompt, seed)
            for prompt, own in zip(prompts, seeds, strict=True)
            for seed in own
        ]
        self.check_work()

    def _request(self, body: TextFields, prompt: Prompt, seed: int) -> GenerationRequest:
        view, settles_early = self.view, SAMPLERS[self.params.sampler].settles_early
        wants_steps = view.trajectory or view.diffusing or view.alternatives is not None
        wants_steps |= settles_early and bool(body.stream or view.stops)
        try:
            request = GenerationRequest.continuing(
                prompt.ids,
                self._length(body.max_tokens, prompt),
                self.params.changed(seed=seed),
                wants_steps,
                prompt.hole,
                prompt.suffix,
                self.budget_seconds,
                body.ignore_eos,
            )
            request = replace(request, draft=self._draft, pinned=self._pinned)
            if self._constraint is not None:
                request = self._constraint.applied_to(request, self.names.length)
            return prepared(request, self.state.engine.caching)
        except InvalidParam as error:
            raise refused(error) from None

    def _score_params(self) -> ScoreParams:
        """Parameters of the estimate of prompts' log-probabilities."""
        return ScoreParams(
            samples=self.samples,
            mixing_ratio=self._own_or_default("mixing_ratio"),
            noise_schedule=self._own_or_default("noise_schedule"),
            seed=self.params.seed,
        )

    def _own_or_default(self, name: str) -> Any:
        """A parameter's value for this request, also if its sampler does not read it."""
        default = default_of(self.state.defaults, name)
        return getattr(self.params.own, name, default)

    def _length(self, asked: int | None, prompt: Prompt) -> int:
        """Number of positions to generate after a prompt.

        The default is the checkpoint's, limited by the room on the canvas, or 0 for a prompt with
        holes. An echoed prompt may have 0.
        """
        limit = self.state.checkpoint.info.max_length
        room = limit - prompt.size
        has_holes = prompt.hole in prompt.ids
        if asked is None:
            asked = 0 if has_holes else default_length(self.state.defaults, room)
        least = 0 if has_holes or prompt.echo is not None else 1
        field, length = self.names.prompt, self.names.length
        limits.check_prompt(field, prompt.size, least, limit)
        if asked < least:
            raise ApiError(400, f"{length} must be at least {least}", param=length)
        if prompt.size + asked == 0:
            raise ApiError(
                400,
                f"{field} holds 0 tokens and {length} is 0; one of them must be at least 1",
                param=field,
            )
        if asked > room:
            raise ApiError(
                400,
                f"the canvas has {limit} positions; the prompt takes {prompt.size} and "
                f"{length} {asked}",
                param=length,
                code="context_length_exceeded",
            )
        return asked

    async def readers(
        self, subscriptions: Sequence[Subscription]
    ) -> list[TextReader[ChoiceT, PieceT]]:
        """See ``Job``. Waits for the log-probabilities of echoed prompts, if they are requested.

        Raises:
            ApiError: their scoring failed.
        """
        tells = self.view.alternatives is not None
        score = self._score_params() if tells else None
        own = self.prompts[:: self.count]
        echoes = await together([echo_of(self.state, prompt, score) for prompt in own])
        return [
            TextReader(self.state, self.form, self.view, i, subscription, echoes[i // self.count])
            for i, subscription in enumerate(subscriptions)
        ]

    def counts(self, readers: Sequence[TextReader[ChoiceT, PieceT]]) -> UsageSoFar:
        """Numbers of prompt tokens and of completion tokens so far."""
        tokens = sum(reader.tokens for reader in readers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    def usage(self, readers: Sequence[TextReader[ChoiceT, PieceT]]) -> Usage:
        """See ``Job``."""
        cost = self.cost([reader.tally for reader in readers])
        return {**self.counts(readers), "diffusion": cost}


def taken(reader: TextReader[ChoiceT, PieceT], event: Step | Done) -> list[Piece[PieceT]] | Failed:
    """The chunks of an event, or a failure if the tokenizer cannot decode its ids."""
    try:
        return reader.take(event)
    except TokenizerError as error:
        return Failed("tokenizer", str(error))
