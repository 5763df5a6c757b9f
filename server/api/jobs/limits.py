"""What one request may ask for, by the server's settings. A refusal says what was asked and what
the limit is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server.config import Settings
from server.http.errors import ApiError

MOST_TEXT = 1 << 19  # bytes that become ids in one request, and ids that become text
MOST_OF_A_POSITION = 64  # or as many bytes for each position of a larger canvas
MOST_NAMED = 1 << 16  # ids whose texts are told one by one, or those of a larger canvas
MOST_WRITTEN = 4  # times the same: bytes of a text that ids are read as


def exceeded(param: str, what: str, asked: object, limit: int) -> ApiError:
    """The refusal of a request that asks for more than a limit."""
    return ApiError(
        400, f"{what} is {asked}; the limit is {limit}", param=param, code="limit_exceeded"
    )


def check_choices(settings: Settings, n: int, prompts: int) -> None:
    """Choices of one request: ``n`` for each prompt.

    Raises:
        ApiError: there are too many.
    """
    if n * prompts > settings.max_choices:
        many = f"{n} × {prompts} = {n * prompts}" if prompts > 1 else n
        what = "n × prompts" if prompts > 1 else "n"
        raise exceeded("n" if n > 1 else "prompt", what, many, settings.max_choices)


def most_text(canvas: int) -> int:
    """Bytes of the longest text that is tokenised, in UTF-8."""
    return max(MOST_TEXT, MOST_OF_A_POSITION * canvas)


def check_texts(param: str, texts: Iterable[str], canvas: int) -> None:
    """Texts that are to become ids, together: a tokenizer takes a hundred times their memory.

    Raises:
        ApiError: they are too long.
    """
    size, most = sum(len(text.encode()) for text in texts), most_text(canvas)
    if size > most:
        raise exceeded(param, f"the number of bytes of {param}", size, most)


def check_stops(settings: Settings, stops: Sequence[str]) -> None:
    """How many stop strings there are, and how long they are, in characters.

    Raises:
        ApiError: too many, or one is too long.
    """
    if len(stops) > settings.max_stops:
        raise exceeded("stop", "the number of stop strings", len(stops), settings.max_stops)
    longest = max(map(len, stops), default=0)
    if longest > settings.max_stop_length:
        what = "the length of a stop string"
        raise exceeded("stop", what, longest, settings.max_stop_length)


def check_work(settings: Settings, steps: int, canvases: Sequence[int]) -> None:
    """Steps, and steps × positions of all canvases, which is what the network will compute.

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
    """A prompt of ``size`` positions, and at least so many to fill, lie on the canvas.

    ``about`` says how well the size is known.

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
