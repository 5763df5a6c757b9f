"""Colours of pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours as ``#rrggbb``; ``colours`` has for each change those of its line and its ground."""

    paper: str
    ink: str
    soft: str
    mask: str
    colours: dict[str, tuple[str, str]]


LIGHT = Theme(
    "#ffffff",
    "#1b1a17",
    "#5f5b53",
    "#d5d0c6",
    {
        "unmask": ("#17794a", "#dcf3e6"),
        "refine": ("#2457c9", "#dfe8fd"),
        "remask": ("#c22a3a", "#fbdfe1"),
    },
)
DARK = Theme(
    "#17181c",
    "#ecebe6",
    "#a3a199",
    "#34373e",
    {
        "unmask": ("#5dd39e", "#143527"),
        "refine": ("#8ab0ff", "#1b2b4d"),
        "remask": ("#ff8a93", "#471d23"),
    },
)
THEMES = {"light": LIGHT, "dark": DARK}
