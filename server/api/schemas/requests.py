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
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from sampler.params import InvalidParam, SamplingParams
from server.api.jobs.choices import View
from server.engine import request_params
from server.http.errors import ApiError

Number = Annotated[float, Field(strict=True)]


class StrictBody(BaseModel):
    """A JSON body in which every field is honoured or refused by name.

    ``neutral`` lists fields of the OpenAI API that are accepted only where they change nothing.
    """

    model_config = ConfigDict(extra="forbid")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, values in cls.neutral.items():
            said = "accepted at the value that changes nothing"
            properties[name] = {"enum": [*values, None], "description": said, "examples": [None]}
        return schema

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
                if value is not None and not _among(value, cls.neutral[name]):
                    raise _refuse(name, f"{name} is not supported")
            else:
                name = name[:64]
                near = difflib.get_close_matches(name, [*cls.model_fields, *cls.neutral], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise _refuse(name, f"unknown field {name!r}{hint}")
        return kept


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether it is one of them; true is not 1, nor false 0."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)


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
    p_uniform: Number | None = None
    remdm_schedule: Literal["cap", "rescale", "loop"] | None = None
    remdm_eta: Number | None = None
    remdm_t_on: Number | None = None
    remdm_t_off: Number | None = None
    remdm_alpha_on: Number | None = None
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
            chosen = self.model_dump(exclude={"logprobs", "logit_bias"})
            return request_params.sampling_params(defaults, chosen)
        except InvalidParam as error:
            raise refused(error) from None


class StreamOptions(BaseModel):
    """OpenAI's stream options, and vLLM's: the usage so far on every chunk."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


StopString = Annotated[StrictStr, Field(min_length=1)]
StopStrings = Annotated[
    list[StopString],
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=StopString | list[StopString],
    ),
]


class TextFields(DiffusionFields):
    """Fields of every route that answers with text."""

    neutral: ClassVar = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "class_label": (),
    }

    model: str | None = None
    max_tokens: StrictInt | None = None
    n: StrictInt | None = Field(default=None, ge=1)
    user: str | None = None
    stop: StopStrings | None = None
    ignore_eos: StrictBool = False
    stream_options: StreamOptions | None = None
    logit_bias: dict[StrictStr, Annotated[Number, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=300
    )
    diffusing: StrictBool | None = None
    latency_budget_ms: Annotated[Number, Field(gt=0, le=3_600_000)] | None = None

    def alternatives(self) -> int | None:
        """Likeliest tokens to tell beside each; None where no log-probabilities are wanted."""
        raise NotImplementedError

    def view(self) -> View:
        """What the client wants to see.

        Raises:
            ApiError: 400 for wishes that exclude each other, naming the field.
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
        """``logit_bias`` as (id, bias) pairs; those of 0 are left out.

        Raises:
            ApiError: 400 for a key that is no token id.
        """
        biases = []
        for key, bias in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
                raise ApiError(
                    400,
                    f"logit_bias: {key[:20]!r} is no token id between 0 and {vocab_size - 1}",
                    param="logit_bias",
                )
            if bias:
                biases.append((int(key), bias))
        return tuple(biases)


def refused(error: InvalidParam) -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, str(error), param=error.field, code="invalid_value")
