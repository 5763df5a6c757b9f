"""A request's choices over its checkpoint's defaults, wherever the request comes from."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sampler import SAMPLERS
from sampler.params import LOOP_WINDOW, OWNERS, InvalidParam, SamplingParams, param_names


def sampling_params(defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> SamplingParams:
    """Params from ``generation_config.json`` and what was chosen; None means not chosen.

    Other keys are ignored; a seed is drawn where none is given.

    Raises:
        InvalidParam: naming the field.
    """
    values: dict[str, Any] = {n: defaults[n] for n in param_names() if n in defaults}
    chosen = {n: chosen[n] for n in param_names() if chosen.get(n) is not None}
    values |= chosen
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    values.setdefault("seed", secrets.randbits(53))
    params = SamplingParams(**values)
    if params.sampler not in SAMPLERS:
        raise InvalidParam("sampler", f"must be one of {', '.join(SAMPLERS)}")
    for name in chosen:
        owners = OWNERS.get(name, tuple(SAMPLERS))
        neutral = 0.0 if name == "mixing_ratio" else getattr(SamplingParams, name)
        if values[name] == neutral:
            continue
        if params.sampler not in owners:
            raise InvalidParam(name, f"is for {' and '.join(owners)}, not for {params.sampler}")
        if name in LOOP_WINDOW and params.remdm_schedule != "loop":
            raise InvalidParam(name, f"is for loop, not for {params.remdm_schedule}")
    return params


def default_length(defaults: Mapping[str, Any], room: int) -> int:
    """Positions to fill where the request does not say: the checkpoint's, at most what fits."""
    return max(1, min(defaults.get("max_new_tokens", room), room))
