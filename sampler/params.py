"""What one request may choose, checked in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

NoiseRemoval = Literal["ancestral", "greedy", "none"]
NOISE_REMOVALS: tuple[str, ...] = get_args(NoiseRemoval)
NoiseSchedule = Literal["log_linear", "llada"]
NOISE_SCHEDULES: tuple[str, ...] = get_args(NoiseSchedule)
RefineScope = Literal["generated", "block"]
REFINE_SCOPES: tuple[str, ...] = get_args(RefineScope)
Remasking = Literal["low_confidence", "random"]
REMASKINGS: tuple[str, ...] = get_args(Remasking)
Compat = Literal["none", "official"]
COMPATS: tuple[str, ...] = get_args(Compat)
RemdmSchedule = Literal["cap", "rescale", "loop"]
REMDM_SCHEDULES: tuple[str, ...] = get_args(RemdmSchedule)
REMDM_ETAS: dict[str, float] = {"cap": 0.008, "rescale": 0.015, "loop": 0.02}
"""The published eta of each schedule."""
LOOP_WINDOW = ("remdm_t_on", "remdm_t_off", "remdm_alpha_on")
"""Fields that only ``loop`` reads."""
OWNERS: dict[str, tuple[str, ...]] = {
    "noise_removal": ("ancestral", "gidd", "remdm"),
    "noise_schedule": ("ancestral",),
    "mixing_ratio": ("ancestral", "topk"),
    "block_length": ("topk", "threshold"),
    "logits_eos_inf": ("topk", "threshold"),
    **dict.fromkeys(
        (
            "topk_absorb",
            "topk_uniform",
            "refine_scope",
            "remasking",
            "confidence_eos_eot_inf",
            "compat",
        ),
        ("topk",),
    ),
    **dict.fromkeys(("confidence_threshold", "entropy_bound", "confidence_factor"), ("threshold",)),
    "p_uniform": ("gidd",),
    **dict.fromkeys(("remdm_schedule", "remdm_eta", *LOOP_WINDOW), ("remdm",)),
}
"""Fields that not every sampler reads, and the samplers that do."""
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
        guidance_scale: w of classifier-free guidance (``sampler.logits.guidance``); 1 is off.
        class_label: what kind of image; None of no kind. Only for networks that take labels.
        seed: fixes every random number of the request.
        noise_removal: (ancestral, gidd, remdm) the last call: draw the clean guess, take its mode,
            or nothing.
        noise_schedule: (ancestral) signal over time, as the checkpoint was trained
            (``schedule.SCHEDULES``).
        topk_absorb: (topk) masks to fill at each step; ``even`` spreads each block's over its
            steps.
        topk_uniform: (topk) tokens to refine at each step; ``auto`` follows the masks filled so
            far by k / (1 - k).
        block_length: (topk, threshold) positions of a block, filled from left to right; None is one
            block.
        refine_scope: (topk) tokens that may be refined: all generated so far, or the active
            block's.
        remasking: (topk) masks are filled in order of confidence, or at random (k = 0).
        logits_eos_inf: (topk, threshold) the end token is never written.
        confidence_eos_eot_inf: (topk) the ends of a text and of a turn are written last: in the
            order of confidence they count as impossible.
        confidence_threshold: (threshold) fill masks whose token has at least this probability.
        entropy_bound: (threshold) fill masks while their entropies sum to this, in nats.
        confidence_factor: (threshold) f of Fast-dLLM's rule.
        p_uniform: (gidd) p_u, the share of uniform noise halfway through.
        remdm_schedule: (remdm) how much is masked again (``sampler.samplers.remdm``).
        remdm_eta: (remdm) its eta; None is the published one.
        remdm_t_on, remdm_t_off, remdm_alpha_on: (remdm, ``loop``) the window of times, which run
            from 1 down to 0, and the signal held in it.
        logprobs: the model's log-probabilities of what is written are wanted; changes no token.
        logit_bias: (id, bias) pairs, added to the logits.
        compat: (topk) ``official`` repeats the published loop with its quirks.
    """

    steps: int = 32
    sampler: str = "ancestral"
    mixing_ratio: float = 0.1
    temperature: float = 1.0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    class_label: int | None = None
    seed: int = 0
    noise_removal: NoiseRemoval = "ancestral"
    noise_schedule: NoiseSchedule = "log_linear"
    topk_absorb: Literal["even"] | tuple[int, ...] = "even"
    topk_uniform: Literal["auto"] | tuple[int, ...] = "auto"
    block_length: int | None = None
    refine_scope: RefineScope = "generated"
    remasking: Remasking = "low_confidence"
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    compat: Compat = "none"
    confidence_threshold: float = 0.9
    entropy_bound: float | None = None
    confidence_factor: float | None = None
    p_uniform: float = 0.0
    remdm_schedule: RemdmSchedule = "cap"
    remdm_eta: float | None = None
    remdm_t_on: float = 0.55
    remdm_t_off: float = 0.05
    remdm_alpha_on: float = 0.9
    logprobs: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, MAX_STEPS)
        check_integer("seed", self.seed, -SEED_LIMIT, SEED_LIMIT - 1)
        check_number("mixing_ratio", self.mixing_ratio, 0.0, 1.0)
        check_number("temperature", self.temperature, 0.0, 2.0)
        check_number("top_p", self.top_p, 0.0, 1.0)
        check_number("guidance_scale", self.guidance_scale, 0.0, 100.0)
        if self.class_label is not None:
            check_integer("class_label", self.class_label, 0, 2**31)
        if self.top_p == 0.0:
            raise InvalidParam("top_p", "must be above 0")
        check_choice("noise_removal", self.noise_removal, NOISE_REMOVALS)
        check_choice("noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
        _budget("topk_absorb", self.topk_absorb, "even", self.steps)
        _budget("topk_uniform", self.topk_uniform, "auto", self.steps)
        if self.block_length is not None:
            check_integer("block_length", self.block_length, 1, 2**31)
        check_number("confidence_threshold", self.confidence_threshold, 0.0, 1.0)
        for field in ("entropy_bound", "confidence_factor"):
            if (value := getattr(self, field)) is not None:
                check_number(field, value, 0.0, 1e6)
        if self.entropy_bound is not None and self.confidence_factor is not None:
            raise InvalidParam("entropy_bound", "and confidence_factor exclude each other")
        check_choice("refine_scope", self.refine_scope, REFINE_SCOPES)
        check_choice("remasking", self.remasking, REMASKINGS)
        check_choice("compat", self.compat, COMPATS)
        for field in ("logits_eos_inf", "confidence_eos_eot_inf", "logprobs"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidParam(field, "must be true or false")
        check_number("p_uniform", self.p_uniform, 0.0, 1.0)
        if self.p_uniform == 1.0:
            raise InvalidParam("p_uniform", "must be below 1")
        self._check_remdm()
        if self.sampler == "topk":
            if self.mixing_ratio == 1.0:
                raise InvalidParam("mixing_ratio", "must be below 1 for the topk sampler")
            if self.remasking == "random" and self.mixing_ratio > 0.0:
                raise InvalidParam("remasking", "random needs mixing_ratio 0")

    def _check_remdm(self) -> None:
        check_choice("remdm_schedule", self.remdm_schedule, REMDM_SCHEDULES)
        if self.remdm_eta is not None:
            check_number("remdm_eta", self.remdm_eta, 0.0, 1.0)
        for field in LOOP_WINDOW:
            check_number(field, getattr(self, field), 0.0, 1.0)
        if self.remdm_t_off > self.remdm_t_on:
            raise InvalidParam("remdm_t_off", f"must be at most remdm_t_on, {self.remdm_t_on:g}")
        if self.remdm_alpha_on in (0.0, 1.0):
            raise InvalidParam("remdm_alpha_on", "must be above 0 and below 1")

    @property
    def calls(self) -> int:
        """Steps the engine walks: T, and one for the noise removal of samplers that have one."""
        last = self.sampler in OWNERS["noise_removal"] and self.noise_removal != "none"
        return self.steps + last


def param_names() -> tuple[str, ...]:
    """Names of all fields, in order."""
    return tuple(f.name for f in fields(SamplingParams))


def check_choice(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises InvalidParam unless the value is one of those allowed."""
    if value not in allowed:
        raise InvalidParam(field, f"must be one of {', '.join(allowed)}")


def _budget(field: str, value: Any, word: str, steps: int) -> None:
    if value == word:
        return
    if not isinstance(value, tuple):
        raise InvalidParam(field, f"must be a list of {steps} integers or {word!r}, got {value!r}")
    if len(value) != steps:
        raise InvalidParam(field, f"must have one entry a step ({steps}), got {len(value)}")
    for entry in value:
        check_integer(field, entry, 0, 2**31)


def check_integer(field: str, value: Any, low: int, high: int) -> None:
    """Raises InvalidParam unless the value is a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParam(field, f"must be an integer, got {value!r}")
    if not low <= value <= high:
        raise InvalidParam(field, f"must lie between {low} and {high}, got {value}")


def check_number(field: str, value: Any, low: float, high: float) -> None:
    """Raises InvalidParam unless the value is a finite number within bounds."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidParam(field, f"must be a finite number, got {value!r}")
    if not low <= value <= high:
        shown = f"{value:g}" if isinstance(value, float) else value  # no float holds every integer
        raise InvalidParam(field, f"must lie between {low:g} and {high:g}, got {shown}")
