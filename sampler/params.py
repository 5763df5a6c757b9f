"""What one request may choose, checked in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

NoiseRemoval = Literal["ancestral", "greedy", "none"]
NOISE_REMOVALS: tuple[str, ...] = get_args(NoiseRemoval)
MAX_STEPS = 4096
SEED_LIMIT = 2**63


class InvalidParam(ValueError):
    """A value that makes no sense; ``field`` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


@dataclass(frozen=True)
class SamplingParams:
    """One request's choices.

    Attributes:
        steps: denoising steps T; noise removal adds one more call of the network.
        sampler: name in ``sampler.SAMPLERS``.
        mixing_ratio: k, the share of uniform noise.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: mass of the nucleus; 1 keeps all tokens.
        noise_removal: the last call: draw the clean guess, take its mode, or do nothing.
        seed: fixes every random number of the request.
    """

    steps: int = 32
    sampler: str = "ancestral"
    mixing_ratio: float = 0.1
    temperature: float = 1.0
    top_p: float = 1.0
    noise_removal: NoiseRemoval = "ancestral"
    seed: int = 0

    def __post_init__(self) -> None:
        _integer("steps", self.steps, 1, MAX_STEPS)
        _integer("seed", self.seed, -SEED_LIMIT, SEED_LIMIT - 1)
        _number("mixing_ratio", self.mixing_ratio, 0.0, 1.0)
        _number("temperature", self.temperature, 0.0, 2.0)
        _number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidParam("top_p", "must be above 0")
        if self.noise_removal not in NOISE_REMOVALS:
            raise InvalidParam("noise_removal", f"must be one of {', '.join(NOISE_REMOVALS)}")

    @property
    def calls(self) -> int:
        """Steps the engine walks: T, and one for noise removal unless it is ``none``."""
        return self.steps + (self.noise_removal != "none")


def param_names() -> tuple[str, ...]:
    """Names of all fields, in order."""
    return tuple(f.name for f in fields(SamplingParams))


def _integer(field: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParam(field, f"must be an integer, got {value!r}")
    if not low <= value <= high:
        raise InvalidParam(field, f"must lie between {low} and {high}, got {value}")


def _number(field: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidParam(field, f"must be a finite number, got {value!r}")
    if not low <= value <= high:
        raise InvalidParam(field, f"must lie between {low:g} and {high:g}, got {value:g}")
