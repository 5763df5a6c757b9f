"""The samplers by name, and request parameters made from plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sampler.interface import Sampler
from sampler.params import (
    COMMON_PARAMS,
    InvalidParam,
    Param,
    SamplerParams,
    SamplingParams,
    check_choice,
    params_in,
)
from sampler.samplers import ancestral, dream, entropy_bound, gidd, remdm, threshold, topk


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler as the rest of the project sees it.

    Attributes:
        make: (vocab_size, mask_id, ends) -> sampler.
        params: its own parameters; their ``state`` is its columns of a batch.
        settles_early: whether positions become final before the last step.
    """

    make: Callable[..., Sampler]
    params: type[SamplerParams]
    settles_early: bool


SAMPLERS: dict[str, SamplerSpec] = {
    "ancestral": SamplerSpec(ancestral.Ancestral, ancestral.AncestralParams, settles_early=False),
    "topk": SamplerSpec(topk.TopK, topk.TopKParams, settles_early=True),
    "threshold": SamplerSpec(threshold.Threshold, threshold.ThresholdParams, settles_early=True),
    "gidd": SamplerSpec(gidd.Gidd, gidd.GiddParams, settles_early=False),
    "remdm": SamplerSpec(remdm.Remdm, remdm.RemdmParams, settles_early=True),
    "dream": SamplerSpec(dream.Dream, dream.DreamParams, settles_early=True),
    "entropy_bound": SamplerSpec(
        entropy_bound.EntropyBound, entropy_bound.EntropyBoundParams, settles_early=True
    ),
}
"""A further sampler is a module in ``sampler/samplers`` and a line here."""
DEFAULT_SAMPLER = "ancestral"


def _readers() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, spec in SAMPLERS.items():
        for field in params_in(spec.params):
            found[field] = (*found.get(field, ()), name)
    return found


READERS: dict[str, tuple[str, ...]] = _readers()
"""Parameters that not every sampler has, and the samplers that do."""
PARAMS: dict[str, Param] = COMMON_PARAMS | {
    field: params_in(SAMPLERS[readers[0]].params)[field] for field, readers in READERS.items()
}
"""Every declared parameter by name; samplers that share one declare it alike."""


def make_params(sampler: str = DEFAULT_SAMPLER, **values: Any) -> SamplingParams:
    """Parameters of one request, from values by name.

    Raises:
        InvalidParam: no such sampler, a value out of bounds, or one that this sampler does not
            read and that would change something.
    """
    check_choice("sampler", sampler, tuple(SAMPLERS))
    declared = params_in(SAMPLERS[sampler].params)
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in values.items():
        if name in READERS:
            PARAMS[name].check(name, value)
        if name in declared:
            own[name] = value
        elif name not in READERS:
            common[name] = value
        elif not PARAMS[name].is_neutral(value):
            *others, last = READERS[name]
            readers = f"{', '.join(others)} and {last}" if others else last
            many = "s" if others else ""
            raise InvalidParam(name, f"is only supported by sampler{many} {readers}; got {sampler}")
    return SamplingParams(sampler, SAMPLERS[sampler].params(**own), **common)
