"""Prompts given as text or as token ids: their ids, and the echo of a prompt in an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sampler.likelihood.monte_carlo import ScoreParams
from server.api.context import State
from server.api.jobs import limits
from server.api.jobs.choices import Echo
from server.api.jobs.waiting import scored
from server.engine.score_request import ScoreRequest
from server.http.errors import ApiError
from server.output.logprobs import given_tokens


@dataclass(frozen=True)
class Prompt:
    """The fixed part of a canvas: what precedes and follows the generated text.

    Attributes:
        ids: token ids before the generated text.
        suffix: token ids after it.
        hole: token id of the positions in ``ids`` that are generated too; None allows none.
        echo: the prompt's text, where the answer repeats it.
        start: number of leading ids that the tokenizer added; they are not part of the text.
    """

    ids: list[int]
    suffix: Sequence[int] = ()
    hole: int | None = None
    echo: str | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """Number of positions that the prompt takes."""
        return len(self.ids) + len(self.suffix)


def checked_ids(state: State, ids: list[int], field: str, masks: str | None = "") -> list[int]:
    """The given token ids, once they are checked against the vocabulary.

    Args:
        state: the application's state.
        ids: token ids.
        field: the body's field that errors name.
        masks: appended to the error about the mask id; None allows the mask id.

    Raises:
        ApiError: 400.
    """
    info = state.checkpoint.info
    if not all(0 <= id_ < info.vocab_size for id_ in ids):
        last = info.vocab_size - 1
        raise ApiError(400, f"{field}: token ids must lie between 0 and {last}", param=field)
    if masks is not None and info.mask_id in ids:
        raise ApiError(400, f"{field} holds the mask id {info.mask_id}{masks}", param=field)
    return ids


def check_bytes(state: State, texts: Iterable[str], field: str) -> None:
    """Refuse texts that cannot fit on the canvas, by a lower bound that needs no tokenisation.

    Raises:
        ApiError: 400.
    """
    tokenizer, canvas, given = (
        state.checkpoint.tokenizer,
        state.checkpoint.info.max_length,
        [*texts],
    )
    limits.check_prompt(field, sum(map(tokenizer.at_least, given)), 1, canvas, "at least ")
    limits.check_texts(field, given, canvas)


def ids_of(state: State, given: str | list[int], field: str, masks: str | None = "") -> list[int]:
    """Token ids of a prompt; a text gets the start token before it.

    Raises:
        ApiError: 400, see ``checked_ids``, or for more ids than the canvas has positions.
    """
    canvas = state.checkpoint.info.max_length
    if isinstance(given, str):
        check_bytes(state, [given], field)
        ids = state.checkpoint.tokenizer.encode(given)
    else:
        ids = given
    if len(ids) > canvas:
        limits.check_prompt(field, len(ids), 1, canvas)
    return checked_ids(state, ids, field, masks) if ids is given else ids


def opened(
    state: State, given: str | list[int | None] | None, field: str
) -> tuple[int | None, ...]:
    """The ids that the positions of an answer begin with, from a text or from ids; None where a
    position has none.

    Raises:
        ApiError: 400, see ``checked_ids``, or for more ids than the canvas has positions.
    """
    if isinstance(given, str):
        check_bytes(state, [given], field)
        return tuple(state.checkpoint.tokenizer.encode_behind(given))
    ids = given or []
    checked_ids(state, [id_ for id_ in ids if id_ is not None], field)
    return tuple(ids)


def granted_samples(state: State, asked: int | None) -> int:
    """Number of Monte Carlo samples of a score: as asked, by default 32 or the server's limit.

    Raises:
        ApiError: 400 for more than the limit.
    """
    most = state.settings.max_score_samples
    if asked is not None and asked > most:
        raise limits.exceeded("samples", "samples", asked, most)
    return min(ScoreParams.samples, most) if asked is None else asked


async def echo_of(state: State, prompt: Prompt, params: ScoreParams | None) -> Echo:
    """The prompt as the answers to it repeat it, with its estimated log-probabilities.

    Args:
        state: the application's state.
        prompt: the prompt.
        params: of the estimate; None returns no log-probabilities.

    Raises:
        ApiError: as ``scored``.
    """
    if prompt.echo is None or params is None:
        return Echo(prompt.echo or "")
    tokenizer, ids = state.checkpoint.tokenizer, prompt.ids
    unscored = tokenizer.opening(ids)
    log_p: list[float | None] = [None] * unscored
    if len(ids) > unscored:
        request = ScoreRequest(ids, list(range(unscored, len(ids))), params)
        score = await scored(state.engine, request)
        log_p += [-nats for nats in score.nats]
    text, start = prompt.echo, prompt.start
    return Echo(text, given_tokens(tokenizer, ids[start:], log_p[start:], text), params.samples)
