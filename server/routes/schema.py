"""What request bodies share: strictness, refusals that help, and the diffusion fields."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from sampler import SAMPLERS
from sampler.params import InvalidParam, SamplingParams, param_names
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
                    raise ValueError(f"{name} is not supported")
            else:
                near = difflib.get_close_matches(name, [*cls.model_fields, *cls.neutral], 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"unknown field {name[:64]!r}{hint}")
        return kept


class DiffusionFields(StrictBody):
    """Sampling fields that every generating route takes; unset ones fall to the checkpoint."""

    temperature: Number | None = None
    top_p: Number | None = None
    seed: StrictInt | None = None
    steps: StrictInt | None = None
    sampler: str | None = None
    mixing_ratio: Number | None = None
    noise_removal: Literal["ancestral", "greedy", "none"] | None = None
    trajectory: Literal["none", "delta"] | None = None
    stream: StrictBool | None = None

    def sampling_params(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """The request's choices over the checkpoint's defaults; a seed is drawn where none is
        given.

        Raises:
            ApiError: 400 naming the field.
        """
        chosen = {n: defaults[n] for n in param_names() if n in defaults}
        chosen |= {n: v for n in param_names() if (v := getattr(self, n)) is not None}
        chosen.setdefault("seed", secrets.randbits(53))
        try:
            params = SamplingParams(**chosen)
        except InvalidParam as error:
            raise ApiError(400, str(error), param=error.field, code="invalid_value") from None
        if params.sampler not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise ApiError(
                400, f"sampler must be one of {known}", param="sampler", code="invalid_value"
            )
        return params
