"""Fields that several request bodies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from sampler.params import InvalidParam, SamplingParams
from server.api.schemas.constraints import ConstraintFields
from server.api.schemas.neutral import TEXT, Neutral
from server.api.schemas.sampling import REQUESTABLE, SamplingFields
from server.api.schemas.strict import Number, OpenIds, StrictPart
from server.api.schemas.template import Settings
from server.engine import request_params
from server.engine.constrained_params import constrained_params
from server.engine.request_params import ModelKind
from server.http.errors import ApiError


class DiffusionFields(SamplingFields):
    """Fields of every generating route: the sampling parameters, and how the answer is sent."""

    seed: StrictInt | None = None
    trajectory: Literal["none", "delta"] | None = None
    stream: StrictBool | None = None

    def sampling_params(
        self, defaults: Mapping[str, Any], kind: ModelKind, constraint: str | None = None
    ) -> SamplingParams:
        """The request's choices over the checkpoint's defaults; without a seed, a random
        one is chosen. ``constraint``: the field that constrains the text.

        Raises:
            ApiError: 400 naming the field.
        """
        try:
            chosen = self.model_dump(include={"sampler", *REQUESTABLE})
            if constraint is not None:
                return constrained_params(defaults, chosen, kind, constraint)
            return request_params.sampling_params(defaults, chosen, kind)
        except InvalidParam as error:
            raise refused(error) from None


def _names_of_ids(given: Any) -> Any:
    """Refuse too many entries before they are checked one by one."""
    if isinstance(given, dict) and len(given) > MOST_BIASES:
        raise ValueError(f"{len(given)} biases; the limit is {MOST_BIASES}")
    return given


class StreamOptions(StrictPart):
    """OpenAI's stream options, and vLLM's: the usage so far on every chunk."""

    neutral: ClassVar = {"include_obfuscation": Neutral((False,), "chunks are not padded")}

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


StopString = Annotated[StrictStr, Field(min_length=1)]
StopStrings = Annotated[
    list[StopString],
    Field(fail_fast=True),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=StopString | list[StopString],
    ),
]


Budget = Annotated[Number, Field(gt=0, le=3_600_000)]
"""Milliseconds."""
MOST_BIASES = 300
Biases = Annotated[
    dict[StrictStr, Annotated[Number, Field(ge=-100, le=100)]], BeforeValidator(_names_of_ids)
]


class DialogueFields(SamplingFields):
    """Fields of routes whose bodies are read as those of a chat, besides the conversation."""

    model: str | None = None
    stream: StrictBool | None = None
    seed: StrictInt | None = None
    latency_budget_ms: Budget | None = None
    logit_bias: Biases | None = Field(default=None, max_length=MOST_BIASES)
    ignore_eos: StrictBool | None = None
    chat_template_kwargs: Settings | None = None
    draft: StrictStr | OpenIds | None = None
    pinned: OpenIds | None = None


@dataclass(frozen=True)
class View:
    """Options of what an answer's choices show.

    Attributes:
        stops: strings that end the text.
        alternatives: most likely tokens to return for each token; None returns no
            log-probabilities.
        samples: Monte Carlo samples for the log-probabilities of an echoed prompt; None takes the
            default.
        trajectory: return the changes of each step.
        guesses: and the tokens that masks would have become.
        diffusing: return the whole canvas as text at each step, in place of the settled text.
    """

    stops: Sequence[str] = ()
    alternatives: int | None = None
    samples: int | None = None
    trajectory: bool = False
    guesses: bool = False
    diffusing: bool = False


@dataclass(frozen=True)
class FieldNames:
    """Names by which errors call the fields of a route that generates text.

    Attributes:
        prompt: the text before the generated one.
        length: positions to generate.
        stop: strings that end the text.
    """

    prompt: str = "prompt"
    length: str = "max_tokens"
    stop: str = "stop"


class TextFields(DiffusionFields, ConstraintFields):
    """Fields of every route that answers with text."""

    neutral: ClassVar = TEXT
    names: ClassVar[FieldNames] = FieldNames()

    model: str | None = None
    max_tokens: StrictInt | None = None
    n: StrictInt | None = Field(default=None, ge=1)
    user: str | None = None
    stop: StopStrings | None = None
    ignore_eos: StrictBool = False
    stream_options: StreamOptions | None = None
    logit_bias: Biases | None = Field(default=None, max_length=MOST_BIASES)
    diffusing: StrictBool | None = None
    latency_budget_ms: Budget | None = None
    draft: StrictStr | OpenIds | None = None
    pinned: OpenIds | None = None

    def alternatives(self) -> int | None:
        """Most likely tokens to return for each token; None returns no log-probabilities."""
        raise NotImplementedError

    def view(self) -> View:
        """The options of what the answer's choices show.

        Raises:
            ApiError: 400 for options that exclude each other, naming the field.
        """
        view = View(
            stops=self.stop or [],
            alternatives=self.alternatives(),
            trajectory=self.trajectory == "delta",
            diffusing=bool(self.diffusing),
        )
        for name, wanted in (
            ("trajectory", view.trajectory),
            ("diffusing", view.diffusing),
            ("stream_options", self.stream_options is not None),
        ):
            if wanted and not self.stream:
                raise ApiError(400, f"{name} needs stream: true", param=name)
        if view.diffusing and view.trajectory:
            raise ApiError(400, "diffusing and trajectory exclude each other", param="diffusing")
        return view

    def biases(self, vocab_size: int) -> tuple[tuple[int, float], ...]:
        """``logit_bias`` as (id, bias) pairs without biases of 0.

        Raises:
            ApiError: 400 for a key that is not a token id, or one that is given twice.
        """
        biases: dict[int, float] = {}
        for key, bias in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
                raise ApiError(
                    400,
                    f"logit_bias: {key[:20]!r} is not a token id between 0 and {vocab_size - 1}",
                    param="logit_bias",
                )
            if int(key) in biases:
                message = f"logit_bias: {int(key)} is given twice"
                raise ApiError(400, message, param="logit_bias", code="invalid_value")
            biases[int(key)] = bias
        return tuple((id_, bias) for id_, bias in biases.items() if bias)


def refused(error: InvalidParam) -> ApiError:
    """A 400 response that names the parameter."""
    return ApiError(400, str(error), param=error.field, code="invalid_value")
