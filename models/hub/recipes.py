"""Settings that published checkpoints are run with, where their folders do not say them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recipes.json")


@dataclass(frozen=True)
class Recipe:
    """How a published checkpoint is run.

    Attributes:
        defaults: of requests; ``generation_config.json`` and requests go above them.
        source: of the values.
        measured: whether this project has measured quality with them.
    """

    defaults: dict[str, Any]
    source: str
    measured: bool


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes, by the name of the repository."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Recipe(**fields) for name, fields in found.items()}


def recipe_of(name: str) -> Recipe | None:
    """The recipe of a model by its name, ``ORG/NAME``; None for others."""
    return recipes().get(name) if "/" in name else None
