"""Requests for scores, and their results."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.checkpoints.load import Checkpoint
from models.interface import ModelInfo
from sampler.likelihood.monte_carlo import ScoreParams
from sampler.params import InvalidParam


@dataclass(frozen=True)
class ScoreRequest:
    """A text to score.

    Attributes:
        tokens: ids of the canvas.
        scored: its positions that are scored, at least one; the others are given.
        params: the request's choices.
    """

    tokens: list[int]
    scored: list[int]
    params: ScoreParams

    @property
    def work(self) -> int:
        """Positions × samples."""
        return len(self.tokens) * self.params.samples


@dataclass(frozen=True)
class Score:
    """A finished score.

    Attributes:
        nats: of each scored position, mean over all samples.
        standard_error: of their sum; None for a single sample.
    """

    nats: list[float]
    standard_error: float | None

    @property
    def total(self) -> float:
        """Nats of the whole text."""
        return math.fsum(self.nats)


def score_params(
    defaults: Mapping[str, Any], chosen: Mapping[str, Any], mask_id: int | None
) -> ScoreParams:
    """Params from ``generation_config.json`` and what was chosen; None means not chosen. Without a
    seed a random one is chosen.

    Raises:
        InvalidParam: naming the field.
    """
    shared = ("mixing_ratio", "noise_schedule")
    values = {name: defaults[name] for name in shared if name in defaults}
    values |= {name: value for name, value in chosen.items() if value is not None}
    values.setdefault("seed", secrets.randbits(53))
    params = ScoreParams(**values)
    if params.estimator == "llada" and chosen.get("mixing_ratio"):
        raise InvalidParam("mixing_ratio", "is for nelbo, not for llada")
    if mask_id is None and params.estimator != "nelbo":
        raise InvalidParam("estimator", f"{params.estimator} needs a model with a mask; use nelbo")
    if mask_id is None and params.mixing_ratio != 1.0:
        reason = f"must be 1 for a model without a mask, got {params.mixing_ratio:g}"
        raise InvalidParam("mixing_ratio", reason)
    return params


def check_scorable(info: ModelInfo) -> None:
    """Refuse networks whose likelihood is not that of one canvas.

    Raises:
        InvalidParam: naming ``model``.
    """
    if info.block_length is not None or info.canvas_length is not None:
        raise InvalidParam("model", f"{info.name} generates in blocks: its texts cannot be scored")


def score_request(
    checkpoint: Checkpoint,
    text: str | list[int],
    prompt: str | list[int] | None,
    end: bool,
    params: ScoreParams,
) -> ScoreRequest:
    """A text to score, alone or after a prompt, each as characters or as ids of the checkpoint.

    A text alone follows the start token, if the checkpoint has one. With ``end`` the end token
    after it is scored too.

    Raises:
        InvalidParam: nothing to score, or more than the canvas holds.
        UnicodeEncodeError: lone surrogates.
    """
    info, tokenizer = checkpoint.info, checkpoint.tokenizer
    check_scorable(info)
    least = sum(tokenizer.at_least(t) for t in (text, prompt) if isinstance(t, str))
    if least > info.max_length:
        raise _too_long(f"at least {least}", info.max_length)
    if prompt is None:
        ids = tokenizer.encode(text) if isinstance(text, str) else text
        given = tokenizer.opening(ids)
    else:
        before = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        after = tokenizer.encode_behind(text) if isinstance(text, str) else text
        ids, given = [*before, *after], len(before)
    if end:
        ids = [*ids, *checkpoint.ends[:1]]
    if len(ids) == given:
        raise InvalidParam("text", "holds no tokens to score")
    if len(ids) > info.max_length:
        raise _too_long(str(len(ids)), info.max_length)
    return ScoreRequest(ids, list(range(given, len(ids))), params)


def _too_long(count: str, canvas: int) -> InvalidParam:
    return InvalidParam("text", f"and its prompt take {count} positions; the canvas has {canvas}")
