"""The prompt in front of an answer's text, with an estimate of its likelihood if it is wanted."""

from __future__ import annotations

from sampler.likelihood.monte_carlo import ScoreParams
from server.api.context import State
from server.api.jobs.choices import Echo
from server.api.jobs.limits import exceeded
from server.api.jobs.prompts import Prompt
from server.api.jobs.waiting import scored
from server.engine.score import ScoreRequest
from server.output.logprobs import given_tokens


def granted_samples(state: State, asked: int | None) -> int:
    """Monte Carlo samples of a score; 32 where none are asked for, or as many as there may be.

    Raises:
        ApiError: 400 for more than the server grants.
    """
    most = state.settings.max_score_samples
    if asked is not None and asked > most:
        raise exceeded("samples", "samples", asked, most)
    return min(ScoreParams.samples, most) if asked is None else asked


async def echo_of(state: State, prompt: Prompt, params: ScoreParams | None) -> Echo:
    """What stands in front of the answers to a prompt.

    Args:
        state: of the application.
        prompt: the prompt.
        params: how its log-probabilities are estimated; None tells none.

    Raises:
        ApiError: as ``scored``.
    """
    if prompt.echo is None or params is None:
        return Echo(prompt.echo or "")
    tokenizer, ids = state.checkpoint.tokenizer, prompt.ids
    given = tokenizer.opening(ids)
    told: list[float | None] = [None] * given
    if len(ids) > given:
        score = await scored(state.engine, ScoreRequest(ids, list(range(given, len(ids))), params))
        told += [-nats for nats in score.nats]
    text, start = prompt.echo, prompt.start
    return Echo(text, given_tokens(tokenizer, ids[start:], told[start:], text), params.samples)
