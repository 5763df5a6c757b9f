"""A request's choices over its checkpoint's defaults, wherever the request comes from."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.interface import ModelInfo
from sampler import PARAMS, READERS, SAMPLERS, make_params
from sampler.params import (
    COMMON_PARAMS,
    MAX_INTEGER,
    BlockParams,
    InvalidParam,
    SamplingParams,
    check_choice,
    check_integer,
    params_in,
)
from sampler.registry import DEFAULT_SAMPLER


@dataclass(frozen=True)
class ModelKind:
    """The facts of a model that decide which samplers it can use.

    Attributes:
        has_mask: its vocabulary has a mask token.
        in_blocks: its attention is block-causal.
        on_canvases: it denoises canvases after a prompt that it encodes.
    """

    has_mask: bool = True
    in_blocks: bool = False
    on_canvases: bool = False

    @classmethod
    def of(cls, info: ModelInfo) -> ModelKind:
        """The kind of a loaded checkpoint."""
        blocks, canvases = info.block_length is not None, info.canvas_length is not None
        return cls(info.mask_id is not None, blocks, canvases)

    @property
    def samplers(self) -> list[str]:
        """Names of the samplers that a model of this kind can use."""
        return [
            name
            for name, spec in SAMPLERS.items()
            if (self.has_mask or not spec.params.needs_mask)
            and (not self.in_blocks or issubclass(spec.params, BlockParams))
            and spec.params.needs_canvases is self.on_canvases
        ]


ANY_KIND = ModelKind()
"""A model with a mask, whose attention is bidirectional."""


def sampling_params(
    defaults: Mapping[str, Any], chosen: Mapping[str, Any], kind: ModelKind = ANY_KIND
) -> SamplingParams:
    """Params from ``generation_config.json`` and what was chosen; None means not chosen.

    Its ``by_sampler`` has defaults of single samplers, which go before those of all. Keys that are
    no parameters are ignored; the seed is random where none is given.

    Args:
        defaults: fields of ``generation_config.json``.
        chosen: values by name.
        kind: of the model.

    Raises:
        InvalidParam: naming the field.
    """
    sampler = chosen.get("sampler") or defaults.get("sampler", DEFAULT_SAMPLER)
    check_choice("sampler", sampler, tuple(SAMPLERS))
    if sampler not in (usable := replace(kind, in_blocks=False).samplers):
        needs = "with a mask"
        if kind.on_canvases or SAMPLERS[sampler].params.needs_canvases:
            needs = "that encodes nothing" if kind.on_canvases else "that encodes its prompt"
        reason = f"{sampler} needs a model {needs}; this model supports {', '.join(usable)}"
        raise InvalidParam("sampler", reason)
    read = {*COMMON_PARAMS, *params_in(SAMPLERS[sampler].params)}
    given = {n: chosen[n] for n in (*PARAMS, "logprobs") if chosen.get(n) is not None}
    usual = defaults_of(defaults, sampler)
    values = {n: usual[n] for n in PARAMS if n in usual and n in read} | given
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    values.setdefault("seed", secrets.randbits(53))
    params = make_params(sampler, **values)
    for name, reason in params.unread().items():
        if name in given and not PARAMS[name].is_neutral(given[name]):
            raise InvalidParam(name, reason)
    if not kind.has_mask:
        params.own.check_without_mask()
        if params.guidance_scale != 1.0 and params.class_label is None:
            reason = "other than 1 needs a mask or a class label; this model has no mask"
            raise InvalidParam("guidance_scale", reason)
    return params


def check_defaults(defaults: Mapping[str, Any], kind: ModelKind) -> None:
    """Check a checkpoint's ``generation_config.json`` against what requests may ask for.

    Args:
        defaults: its fields.
        kind: of the model.

    Raises:
        InvalidParam: naming the field.
    """
    of_each = defaults.get("by_sampler", {})
    if not isinstance(of_each, dict) or not all(isinstance(own, dict) for own in of_each.values()):
        raise InvalidParam("by_sampler", "must be an object of an object for each sampler")
    sampling_params(defaults, {}, kind)
    for name in READERS:
        if name in defaults:
            value = defaults[name]
            PARAMS[name].check(name, tuple(value) if isinstance(value, list) else value)
    for sampler, own in of_each.items():
        for name in own:
            check_choice(f"by_sampler.{sampler}", name, tuple(PARAMS))
        sampling_params(defaults, {"sampler": sampler}, kind)
    if "max_new_tokens" in defaults:
        check_integer("max_new_tokens", defaults["max_new_tokens"], 1, MAX_INTEGER)


def defaults_of(defaults: Mapping[str, Any], sampler: str) -> dict[str, Any]:
    """A checkpoint's defaults for one sampler."""
    return {**defaults, **defaults.get("by_sampler", {}).get(sampler, {})}


def default_of(defaults: Mapping[str, Any], name: str) -> Any:
    """The value of a parameter where a request does not choose: the checkpoint's, or ours."""
    return defaults.get(name, PARAMS[name].default)


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
