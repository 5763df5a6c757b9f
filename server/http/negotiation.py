"""Content negotiation by the ``Accept`` header (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

RANGE = re.compile(r"\s*([^\s;,/]+)/([^\s;,/]+)\s*(?:;(.*))?", re.DOTALL)
QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def preferred(header: str, offered: Sequence[str]) -> str | None:
    """The media type of ``offered`` that the client prefers; the first of equals.

    The most specific range that matches a type counts. Parameters except q and invalid ranges are
    ignored. None if the client accepts none of them; a header without ranges accepts all.
    """
    ranges = _ranges(header)
    if not ranges:
        return offered[0]
    qualities = {type_: _quality(type_, ranges) for type_ in offered}
    best = max(offered, key=lambda type_: qualities[type_])
    return best if qualities[best] > 0 else None


def _ranges(header: str) -> dict[str, float]:
    """Media ranges and their qualities."""
    ranges: dict[str, float] = {}
    for part in header.split(","):
        if found := RANGE.fullmatch(part):
            type_, subtype, parameters = found.groups(default="")
            given = (QUALITY.fullmatch(p) for p in parameters.split(";"))
            quality = next((float(q[1]) for q in given if q), 1.0)
            name = f"{type_}/{subtype}".lower()
            ranges[name] = max(quality, ranges.get(name, 0.0))
    return ranges


def _quality(type_: str, ranges: dict[str, float]) -> float:
    whole = type_.split("/")[0] + "/*"
    return next((ranges[name] for name in (type_, whole, "*/*") if name in ranges), 0.0)
