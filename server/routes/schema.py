"""What request bodies share: strictness, refusals that help, and the diffusion fields."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sampler.params import InvalidParam, SamplingParams
from server import choices
from server.errors import ApiError

Number = Annotated[float, Field(strict=True)]


class StrictBody(BaseModel):
    """A JSON body in which every field is honoured or refused by name.

    ``neutral`` lists fields of the OpenAI API that are accepted only where they change nothing.
    """

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body must be a JSON object")
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in cls.neutral:
                if value is not None and value not in cls.neutral[name]:
                    raise _refuse(name, f"{name} is not supported")
            else:
                name = name[:64]
                near = difflib.get_close_matches(name, [*cls.model_fields, *cls.neutral], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise _refuse(name, f"unknown field {name!r}{hint}")
        return kept


def _refuse(field: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{message}", {"message": message, "field": field})


class DiffusionFields(StrictBody):
    """Sampling fields that every generating route takes; unset ones fall to the checkpoint."""

    temperature: Number | None = None
    top_p: Number | None = None
    seed: StrictInt | None = None
    steps: StrictInt | None = None
    sampler: str | None = None
    mixing_ratio: Number | None = None
    noise_removal: Literal["ancestral", "greedy", "none"] | None = None
    topk_absorb: Literal["even"] | list[StrictInt] | None = None
    topk_uniform: Literal["auto"] | list[StrictInt] | None = None
    block_length: StrictInt | None = None
    refine_scope: Literal["generated", "block"] | None = None
    remasking: Literal["low_confidence", "random"] | None = None
    logits_eos_inf: StrictBool | None = None
    confidence_eos_eot_inf: StrictBool | None = None
    confidence_threshold: Number | None = None
    entropy_bound: Number | None = None
    confidence_factor: Number | None = None
    compat: Literal["none", "official"] | None = None
    guidance_scale: Number | None = None
    trajectory: Literal["none", "delta"] | None = None
    stream: StrictBool | None = None

    def sampling_params(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """The request's choices over the checkpoint's defaults; a seed is drawn where none is
        given.

        Raises:
            ApiError: 400 naming the field.
        """
        try:
            return choices.sampling_params(defaults, self.model_dump())
        except InvalidParam as error:
            raise refused(error) from None


class StreamOptions(BaseModel):
    """OpenAI's stream options."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False


StopStrings = Annotated[
    list[Annotated[StrictStr, Field(min_length=1, max_length=256)]],
    Field(max_length=4),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
]


class TextFields(DiffusionFields):
    """Fields of every route that answers with text."""

    neutral: ClassVar = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "diffusing": (False,),
        "class_label": (),
        "latency_budget_ms": (),
    }

    model: str | None = None
    max_tokens: StrictInt | None = None
    n: StrictInt | None = Field(default=None, ge=1, le=128)
    user: str | None = None
    stop: StopStrings | None = None
    stream_options: StreamOptions | None = None


def refused(error: InvalidParam) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, str(error), param=error.field, code="invalid_value")
