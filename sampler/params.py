"""Request parameters: what each is, its bounds, and the checks of its values.

A sampler declares its own parameters in a dataclass beside its algorithm; those of every sampler
stand in ``SamplingParams``. The HTTP schema, the command line, the OpenAPI document and the page
are made from these declarations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from sampler.cache import MODES
from sampler.state import SamplerState

MAX_STEPS = 4096
MAX_INTEGER = 2**31
SEED_LIMIT = 2**63
PARAM = "param"
"""Key of a declaration in a dataclass field's metadata."""


LONGEST_MESSAGE = 400  # characters


class InvalidParam(ValueError):
    """A parameter value that cannot be used; ``field`` names the parameter. The message is short,
    however long the value is.
    """

    def __init__(self, field: str, message: str) -> None:
        line = f"{field} {message}"
        if len(line) > LONGEST_MESSAGE:
            half = LONGEST_MESSAGE // 2 - 2
            line = f"{line[:half]} … {line[-half:]}"
        super().__init__(line)
        self.field = field


@dataclass(frozen=True)
class Param:
    """A declared request parameter.

    Attributes:
        kind: the type of its values; a ``schedule`` is a list of one integer per step, or a word.
        default: value where neither request nor checkpoint gives one.
        doc: one line for users.
        low, high: inclusive bounds of numbers.
        open_low, open_high: whether a bound itself is excluded.
        words: allowed words of a choice, or the word that may replace a schedule.
        example: for the OpenAPI document; the default where None.
        neutral: value that samplers without this parameter accept; the default where None.
        label: short name for forms; derived from the name where empty.
        requestable: whether requests may set it; else only a checkpoint's defaults.
    """

    kind: Literal["integer", "number", "flag", "choice", "schedule"]
    default: Any
    doc: str
    low: float | int = -math.inf
    high: float | int = math.inf
    open_low: bool = False
    open_high: bool = False
    words: tuple[str, ...] = ()
    example: Any = None
    neutral: Any = None
    label: str = ""
    requestable: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise InvalidParam unless the value is allowed; None is, where it is the default."""
        if value is None and self.default is None:
            return
        if self.kind == "choice":
            check_choice(name, value, self.words)
        elif self.kind == "flag":
            if not isinstance(value, bool):
                raise InvalidParam(name, f"must be true or false, got {value!r}")
        elif self.kind == "schedule":
            _check_schedule(name, value, self.words[0])
        else:
            check = check_integer if self.kind == "integer" else check_number
            check(name, value, self.low, self.high)
            if self.open_low and value == self.low:
                raise InvalidParam(name, f"must be above {self.low:g}")
            if self.open_high and value == self.high:
                raise InvalidParam(name, f"must be below {self.high:g}")

    def is_neutral(self, value: Any) -> bool:
        """Whether a sampler without this parameter can accept the value: it changes nothing."""
        return value == (self.default if self.neutral is None else self.neutral)


def param(declared: Param) -> Any:
    """A dataclass field for a declared parameter."""
    return field(default=declared.default, metadata={PARAM: declared})


def integer(default: int | None, doc: str, low: int, high: int, **more: Any) -> Param:
    """A whole number; a default of None means optional."""
    return Param("integer", default, doc, low, high, **more)


def number(
    default: float | None, doc: str, low: float | int, high: float | int, **more: Any
) -> Param:
    """A finite real number; a default of None means optional."""
    return Param("number", default, doc, low, high, **more)


def flag(default: bool, doc: str, **more: Any) -> Param:
    """True or false."""
    return Param("flag", default, doc, **more)


def choice(doc: str, *words: str, **more: Any) -> Param:
    """One of several words; the first is the default."""
    return Param("choice", words[0], doc, words=words, **more)


def schedule(word: str, doc: str, **more: Any) -> Param:
    """A list of one integer per step, or the word that is its default."""
    return Param("schedule", word, doc, words=(word,), **more)


def params_in(declaring: Any) -> dict[str, Param]:
    """The parameters that a dataclass or an instance of one declares, by name."""
    return {f.name: f.metadata[PARAM] for f in fields(declaring) if PARAM in f.metadata}


# Parameters of several samplers.
MIXING_RATIO = number(
    0.1, "k, the share of uniform noise", 0, 1, neutral=0.0, label="Mixing ratio k"
)
NOISE_REMOVAL = choice(
    "how the last call fills the canvas: a draw from the clean guess, its mode, or no last call",
    "ancestral",
    "greedy",
    "none",
    label="Last call",
)
NOISE_SCHEDULE = choice(
    "signal over time, as the checkpoint was trained", "log_linear", "llada", requestable=False
)
BLOCK_LENGTH = integer(
    None,
    "positions of a block, filled from left to right; the whole canvas where not given",
    1,
    MAX_INTEGER,
    example=32,
)
BLOCK_ALIGNED = flag(
    False, "blocks are counted from the first position of the canvas", requestable=False
)
TOP_P_RULE = choice(
    "whether the token with which the mass exceeds top_p is left out of the nucleus or kept",
    "within",
    "crossing",
    requestable=False,
)
FIRST_ALONE = flag(
    False,
    "the first step of a block writes its first position alone, where keys and values are kept",
    requestable=False,
)
ENTROPY_BOUND = number(
    None, "write positions while their entropies sum to this, in nats", 0, 1e6, example=0.5
)
LOGITS_EOS_INF = flag(False, "never write the end token", label="Never end")


@dataclass(frozen=True)
class SamplerParams:
    """Base of a sampler's own parameters. Subclasses declare fields with ``param``.

    Attributes:
        state: the sampler's own columns of a ``CanvasBatch``.
        needs_mask: whether the sampler is only for models with a mask.
        needs_canvases: whether it is only for models that denoise canvases after an encoded prompt,
            which have no other.
        reads_open_masks: whether a step reads logits of masks that it does not fill.
    """

    state: ClassVar[type[SamplerState]]
    needs_mask: ClassVar[bool] = True
    needs_canvases: ClassVar[bool] = False
    reads_open_masks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, declared in params_in(self).items():
            declared.check(name, getattr(self, name))
        self.check_together()

    def check_together(self) -> None:
        """Raise InvalidParam for values that exclude each other."""

    def check_canvas(self, steps: int, free: int) -> None:
        """Raise InvalidParam unless a canvas with ``free`` positions to write takes ``steps``."""

    def check_without_mask(self) -> None:
        """Raise InvalidParam for choices that a model without a mask cannot take."""

    def check_cached(self) -> None:
        """Raise InvalidParam for choices that exclude a cache of keys and values."""

    def unread(self) -> dict[str, str]:
        """Parameters that the other values make meaningless, each with the reason."""
        return {}

    @property
    def extra_calls(self) -> int:
        """Network calls after the last denoising step."""
        return 0

    @property
    def fixed_by(self) -> str:
        """The choice by which the step count cannot be reduced while the request runs; empty where
        it can.
        """
        return ""

    @property
    def fixed_steps(self) -> bool:
        """Whether the step count cannot be reduced while the request runs."""
        return bool(self.fixed_by)

    @property
    def reads_given_masks(self) -> bool:
        """Whether mask ids in a prompt are taken as they are."""
        return False

    def block_positions(self, free: int) -> int:
        """Positions of a block on a canvas with ``free`` positions to write."""
        return free

    def first_rank(self, given: int) -> int:
        """Rank of the first position to write, after ``given`` positions of the canvas."""
        del given
        return 0

    def most_steps(self, free: int) -> int:
        """Steps that a canvas with ``free`` positions to write can take."""
        del free
        return MAX_STEPS


@dataclass(frozen=True)
class BlockParams(SamplerParams):
    """Parameters of samplers that fill the canvas block by block."""

    block_length: int | None = param(BLOCK_LENGTH)
    block_aligned: bool = param(BLOCK_ALIGNED)
    top_p_rule: str = param(TOP_P_RULE)
    logits_eos_inf: bool = param(LOGITS_EOS_INF)

    @property
    def keeps_crossing(self) -> bool:
        """Whether the nucleus has the token with which its mass exceeds ``top_p``."""
        return self.top_p_rule == "crossing"

    def block_positions(self, free: int) -> int:
        """Positions of a block; all that are free where no length was chosen."""
        return self.block_length or free

    def filled_in_turn(self, free: int) -> int:
        """Positions that are filled before others to their right."""
        return self.block_positions(free)

    def first_rank(self, given: int) -> int:
        """Where the first position to write lies in its block, if blocks are aligned."""
        return given % self.block_length if self.block_aligned and self.block_length else 0

    def check_canvas(self, steps: int, free: int) -> None:
        """Raise InvalidParam for fewer steps than blocks."""
        blocks = max(1, -(-free // max(1, self.filled_in_turn(free))))
        if steps < blocks:
            raise InvalidParam("steps", f"must be at least the number of blocks, {blocks}")


@dataclass(frozen=True)
class SamplingParams:
    """One request's parameters: those of every sampler, and ``own``, its sampler's.

    Made by ``sampler.make_params``.

    Attributes:
        sampler: name in ``sampler.SAMPLERS``.
        own: the sampler's own parameters.
        steps: denoising steps T; noise removal adds one more call of the network.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: mass of the nucleus; 1 keeps all tokens.
        guidance_scale: w of classifier-free guidance (``sampler.logits.guidance``); 1 is off.
        class_label: class of an image; None for unconditional. Only for networks with labels.
        seed: fixes every random number of the request.
        cache, cache_interval, cache_vicinity: see ``sampler.cache``.
        logprobs: the model's log-probabilities of written tokens are recorded; changes no token.
        guesses: tokens that masks would have become, where a step read them and left the mask, are
            recorded; changes no token.
        logit_bias: (id, bias) pairs, added to the logits.
    """

    sampler: str
    own: SamplerParams
    steps: int = param(integer(32, "denoising steps", 1, MAX_STEPS, label="Steps"))
    temperature: float = param(
        number(1.0, "divides the logits; 0 takes the likeliest token", 0, 2, example=0.7)
    )
    top_p: float = param(number(1.0, "mass of the nucleus", 0, 1, open_low=True, example=0.95))
    guidance_scale: float = param(
        number(1.0, "w of classifier-free guidance; 1 is off", 0, 100, label="Guidance w")
    )
    class_label: int | None = param(
        integer(None, "class of an image, by its number", 0, MAX_INTEGER, requestable=False)
    )
    seed: int = param(
        integer(
            0,
            "same seed, same text; random where not given",
            -SEED_LIMIT,
            SEED_LIMIT - 1,
            example=7,
        )
    )
    cache: str = param(
        choice(
            "which keys and values are kept between steps; all but none are approximate",
            *MODES,
            label="Cache (approximate)",
        )
    )
    cache_interval: int | None = param(
        integer(None, "steps after which a cache is made anew; 1 is exact", 1, MAX_STEPS, example=8)
    )
    cache_vicinity: int = param(
        integer(16, "positions run on either side of the block", 0, MAX_INTEGER, label="Vicinity")
    )
    logprobs: bool = False
    guesses: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, declared in params_in(self).items():
            declared.check(name, getattr(self, name))
        if self.cache != "none":
            self.own.check_cached()
        if not isinstance(self.logprobs, bool):
            raise InvalidParam("logprobs", f"must be true or false, got {self.logprobs!r}")
        if self.guesses and not self.own.reads_open_masks:
            why = "needs a sampler that reads masks before it fills them"
            raise InvalidParam("trajectory_guesses", f"{why}; got {self.sampler}")
        for name, declared in params_in(self.own).items():
            value = getattr(self.own, name)
            if declared.kind == "schedule" and isinstance(value, tuple):
                _check_length(name, value, self.steps)

    def changed(self, **values: Any) -> SamplingParams:
        """These parameters with other values, the sampler's own included."""
        own = {n: values.pop(n) for n in params_in(self.own) if n in values}
        return replace(self, own=replace(self.own, **own), **values)

    def unread(self) -> dict[str, str]:
        """Parameters that the other values make meaningless, each with the reason."""
        found = self.own.unread()
        if self.cache == "none":
            found["cache_interval"] = "needs a cache; got none"
        if self.cache != "vicinity":
            found["cache_vicinity"] = f"needs cache vicinity; got {self.cache}"
        return found

    @property
    def calls(self) -> int:
        """Network calls of the request: T, and those of its sampler's noise removal."""
        return self.steps + self.own.extra_calls


COMMON_PARAMS: dict[str, Param] = params_in(SamplingParams)
"""Parameters of every sampler, by name."""


def check_choice(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise InvalidParam unless the value is one of those allowed."""
    if value not in allowed:
        raise InvalidParam(field, f"must be one of {', '.join(allowed)}; got {str(value)[:64]!r}")


def check_integer(field: str, value: Any, low: float | int, high: float | int) -> None:
    """Raise InvalidParam unless the value is a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParam(field, f"must be an integer, got {value!r}")
    if not low <= value <= high:
        raise InvalidParam(field, f"must lie between {low} and {high}, got {value}")


def check_number(field: str, value: Any, low: float | int, high: float | int) -> None:
    """Raise InvalidParam unless the value is a finite number within bounds."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidParam(field, f"must be a finite number, got {value!r}")
    if not low <= value <= high:
        shown = f"{value:g}" if isinstance(value, float) else value  # no float holds every integer
        raise InvalidParam(field, f"must lie between {low:g} and {high:g}, got {shown}")


def _check_schedule(field: str, value: Any, word: str) -> None:
    if value == word:
        return
    if not isinstance(value, tuple):
        raise InvalidParam(field, f"must be a list of integers or {word!r}, got {value!r}")
    for entry in value:
        check_integer(field, entry, 0, MAX_INTEGER)


def _check_length(field: str, value: tuple[int, ...], steps: int) -> None:
    if len(value) != steps:
        raise InvalidParam(field, f"must have one entry per step ({steps}), got {len(value)}")
