"""Limits of one request, by the server's settings. Errors name both numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.config import Settings
from server.http.errors import ApiError

MOST_TEXT = 1 << 19  # bytes tokenised in one request, and ids detokenised
MOST_OF_A_POSITION = 64  # the same for larger canvases, in bytes for each position
MOST_NAMED = 1 << 16  # ids returned with their texts, or the canvas if it is larger
MOST_WRITTEN = 4  # times ``most_text``: bytes of a detokenised text


def exceeded(param: str, what: str, asked: object, limit: int) -> ApiError:
    """The refusal of a request that asks for more than a limit."""
    return ApiError(
        400, f"{what} is {asked}; the limit is {limit}", param=param, code="limit_exceeded"
    )


def check_choices(settings: Settings, n: int, prompts: int, field: str = "prompt") -> None:
    """Check the number of choices of one request, ``n`` for each prompt, or entry of ``field``.

    Raises:
        ApiError: there are too many.
    """
    if n * prompts > settings.max_choices:
        many = f"{n} × {prompts} = {n * prompts}" if prompts > 1 else n
        several = "prompts" if field == "prompt" else field
        what = f"n × {several}" if prompts > 1 else "n"
        raise exceeded("n" if n > 1 else field, what, many, settings.max_choices)


def most_text(canvas: int) -> int:
    """Largest UTF-8 size of the texts that one request may have tokenised, in bytes."""
    return max(MOST_TEXT, MOST_OF_A_POSITION * canvas)


def check_texts(param: str, texts: Iterable[str], canvas: int) -> None:
    """Check the total size of texts before they are tokenised, which takes 100 times their memory.

    Raises:
        ApiError: they are too long.
    """
    size, most = sum(len(text.encode()) for text in texts), most_text(canvas)
    if size > most:
        raise exceeded(param, f"the number of bytes of {param}", size, most)


def check_stops(settings: Settings, stops: Sequence[str], field: str = "stop") -> None:
    """Check the number of stop strings and their lengths in characters; errors name ``field``.

    Raises:
        ApiError: too many, or one is too long.
    """
    if len(stops) > settings.max_stops:
        raise exceeded(field, "the number of stop strings", len(stops), settings.max_stops)
    longest = max(map(len, stops), default=0)
    if longest > settings.max_stop_length:
        what = "the length of a stop string"
        raise exceeded(field, what, longest, settings.max_stop_length)


def check_work(settings: Settings, steps: int, canvases: Sequence[int]) -> None:
    """Check the number of steps, and steps × positions of all canvases, the network's work.

    Raises:
        ApiError: too many.
    """
    if steps > settings.max_steps:
        raise exceeded("steps", "steps", steps, settings.max_steps)
    positions = sum(canvases)
    if steps * positions > settings.max_work:
        work = f"{steps} × {positions} = {steps * positions}"
        raise exceeded("steps", "steps × positions", work, settings.max_work)


def check_prompt(param: str, size: int, least: int, canvas: int, about: str = "") -> None:
    """Check that a prompt of ``size`` positions and ``least`` generated ones fit on the canvas.

    ``about`` qualifies the size in the message.

    Raises:
        ApiError: they do not.
    """
    if size + least > canvas:
        raise ApiError(
            400,
            f"the prompt takes {about}{size} positions and at least {least} must be left to fill; "
            f"the canvas has {canvas}",
            param=param,
            code="context_length_exceeded",
        )
