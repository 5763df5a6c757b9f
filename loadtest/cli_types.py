"""Parsers of command line values: durations, lists, objectives, addresses, fields."""

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
        Refusal: it is not a duration, or not above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?", text.strip())
    seconds = float(found.group(1)) * UNITS[found.group(2) or "s"] if found else 0.0
    if seconds <= 0:
        raise Refusal(f"{text!r} is not a duration; write 500ms, 30s or 2m")
    return seconds


def numbers(text: str, least: float, most: float, whole: bool = False) -> list[float]:
    """Distinct numbers separated by commas, from ``least`` to ``most``.

    Raises:
        Refusal: it is not such a list.
    """
    try:
        found = [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise Refusal(f"{text!r}: expected {kind} separated by commas") from None
    if len(set(found)) < len(found):
        raise Refusal(f"{text!r} contains a value twice")
    for value in found:
        if not least <= value <= most:
            raise Refusal(f"{value:g} is not from {least:g} to {most:g}")
    return found


def loads(concurrency: str | None, rate: str | None) -> tuple[Load, ...]:
    """Loads of closed loops (concurrency) and open loops (requests per second).

    Raises:
        Refusal: neither is given, or a value is out of bounds.
    """
    found = [Load("closed", n) for n in numbers(concurrency, 1, 1024, True)] if concurrency else []
    found += [Load("open", r) for r in numbers(rate, 0.01, 10_000)] if rate else []
    if not found:
        raise Refusal("no load is given; write --concurrency 1,4,16 or --rate 1,2,4")
    return tuple(found)


def objective(text: str) -> Objective:
    """The objective of ``p95=500ms``.

    Raises:
        Refusal: it is not an objective.
    """
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)=(.+)", text.strip())
    if not found:
        raise Refusal(f"{text!r} is not an objective; write p95=500ms")
    return Objective(float(found.group(1)), duration(found.group(2)))


def address(url: str) -> str:
    """Scheme, host and port of a URL.

    Raises:
        Refusal: the URL has no host, or has a path.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname in (None, "", "0.0.0.0", "::"):
        raise Refusal(f"{url!r} does not name a host; write http://127.0.0.1:8000")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Refusal(f"{url!r} has a path; give scheme, host and port only")
    return f"{parts.scheme}://{parts.netloc}"


def fields(pairs: list[str]) -> dict[str, Any]:
    """Fields of ``name=JSON`` each; a value that is not JSON is taken as a string.

    Raises:
        Refusal: there is no equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise Refusal(f"{pair!r}: expected name=value")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found
