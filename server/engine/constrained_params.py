"""Sampling parameters of requests for texts of a language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampler.params import InvalidParam, SamplingParams
from sampler.registry import DEFAULT_SAMPLER
from server.engine.request_params import ModelKind, defaults_of, sampling_params

KEEPING = ("topk", "threshold", "dream")
"""Samplers whose tokens stay, or are replaced all at once: what a constrained canvas holds remains
a part of some text. ``ancestral`` is one too where no uniform noise is mixed in."""
USABLE = f"use {', '.join(KEEPING)}, or ancestral with mixing_ratio 0"


def constrained_params(
    defaults: Mapping[str, Any], chosen: Mapping[str, Any], kind: ModelKind, field: str
) -> SamplingParams:
    """See ``sampling_params``. What a request leaves open gives way to the constraint: another
    sampler than the checkpoint's, and its defaults that could spoil a text.

    Args:
        defaults, chosen, kind: see there.
        field: the name of the constraint.

    Raises:
        InvalidParam: naming the field, also for a value that excludes a constraint.
    """
    sampler = chosen.get("sampler") or defaults.get("sampler", DEFAULT_SAMPLER)
    if not chosen.get("sampler") and sampler not in KEEPING:
        sampler = "topk"
    usual = {**defaults_of(defaults, sampler), "sampler": sampler, "by_sampler": {}}
    usual |= {"compat": "none", "logits_eos_inf": False}
    if sampler == "ancestral":
        usual["mixing_ratio"] = 0.0
        if usual.get("noise_removal") == "none":
            usual["noise_removal"] = "ancestral"
    params = sampling_params(usual, chosen, kind)
    if params.sampler not in (*KEEPING, "ancestral"):
        reason = f"{params.sampler} is not supported with {field}; {USABLE}"
        raise InvalidParam("sampler", reason)
    if params.sampler == "ancestral" and (k := getattr(params.own, "mixing_ratio", 0.0)) > 0:
        reason = f"{k:g} is not supported with {field} by ancestral; {USABLE}"
        raise InvalidParam("mixing_ratio", reason)
    for name, value in (("noise_removal", "none"), ("compat", "official"), ("logits_eos_inf", 1)):
        if getattr(params.own, name, None) == value:
            said = getattr(params.own, name)
            raise InvalidParam(
                name, f"{said} is not supported with {field}".replace("True", "true")
            )
    return params
