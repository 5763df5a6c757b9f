"""A request's choices over its checkpoint's defaults, wherever the request comes from."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from models.interface import ModelInfo
from sampler import SAMPLERS
from sampler.params import (
    LOOP_WINDOW,
    OWNERS,
    InvalidParam,
    SamplingParams,
    check_choice,
    check_integer,
    param_names,
)


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
    check_choice("sampler", params.sampler, tuple(SAMPLERS))
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


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Hold what a checkpoint says of its requests against what they can be.

    Raises:
        InvalidParam: naming the field.
    """
    sampling_params(defaults, {})
    if "max_new_tokens" in defaults:
        check_integer("max_new_tokens", defaults["max_new_tokens"], 1, 2**31)


def class_named(info: ModelInfo, word: str) -> int:
    """The label of a class, by its name or its number.

    Raises:
        InvalidParam: there is none.
    """
    word = word.strip().casefold()
    names = [name.casefold() for name in info.class_names]
    if word in names:
        return names.index(word)
    if word.isascii() and word.isdigit() and len(word) < 10 and int(word) < info.classes:
        return int(word)
    known = f"0 to {info.classes - 1}" + "".join(f", {name}" for name in info.class_names[:20])
    raise InvalidParam("prompt", f"must name a class: {known}")


def default_length(defaults: Mapping[str, Any], room: int) -> int:
    """Positions to fill where the request does not say: the checkpoint's, at most what fits."""
    return max(1, min(defaults.get("max_new_tokens", room), room))
