"""Values of the command line: durations, lists, objectives, addresses, fields."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import orjson

from loadtest.errors import Refusal
from loadtest.plan import Load
from loadtest.summary import Objective

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0}


def duration(text: str) -> float:
    """Seconds of ``500ms``, ``30s`` or ``2m``; a bare number is seconds.

    Raises:
        Refusal: it is no such thing, or not above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", text.strip())
    seconds = float(found.group(1)) * UNITS[found.group(2) or "s"] if found else 0.0
    if seconds <= 0:
        raise Refusal(f"{text!r} is no duration; write 500ms, 30s or 2m")
    return seconds


def numbers(text: str, least: float, most: float, whole: bool = False) -> list[float]:
    """Numbers with commas between, each once, within bounds.

    Raises:
        Refusal: it is no such thing.
    """
    try:
        found = [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise Refusal(f"{text!r}: {kind} with commas between were expected") from None
    if len(set(found)) < len(found):
        raise Refusal(f"{text!r} names a value twice")
    for value in found:
        if not least <= value <= most:
            raise Refusal(f"{value:g} is not from {least:g} to {most:g}")
    return found


def loads(concurrency: str | None, rate: str | None) -> tuple[Load, ...]:
    """Closed and open loops.

    Raises:
        Refusal: there is none, or a bound is passed.
    """
    found = [Load("closed", n) for n in numbers(concurrency, 1, 1024, True)] if concurrency else []
    found += [Load("open", r) for r in numbers(rate, 0.01, 10_000)] if rate else []
    if not found:
        raise Refusal("say how much load: --concurrency 1,4,16 or --rate 1,2,4")
    return tuple(found)


def objective(text: str) -> Objective:
    """``p95=500ms``.

    Raises:
        Refusal: it is no such thing.
    """
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)=(.+)", text.strip())
    if not found:
        raise Refusal(f"{text!r} is no objective; write p95=500ms")
    return Objective(float(found.group(1)), duration(found.group(2)))


def address(url: str) -> str:
    """An address that names one host, without a path.

    Raises:
        Refusal: it does not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname in (None, "", "0.0.0.0", "::"):
        raise Refusal(f"{url!r} names no host; write http://127.0.0.1:8000")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Refusal(f"{url!r} has a path; the routes are known, so leave it out")
    return f"{parts.scheme}://{parts.netloc}"


def fields(pairs: list[str]) -> dict[str, Any]:
    """``name=JSON`` each; what is no JSON is a string.

    Raises:
        Refusal: there is no equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise Refusal(f"{pair!r}: name=value was expected")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found
