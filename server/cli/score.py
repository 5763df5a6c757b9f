"""``xdlm score``: estimate a text's negative log-likelihood."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sampler.params import InvalidParam
from server.cli.common import (
    AdapterOption,
    CheckpointOption,
    DeviceOption,
    DTypeOption,
    in_utf8,
    load,
    stop,
)
from server.config import Settings


def score(
    text: Annotated[str, typer.Argument(help="text to score", callback=in_utf8)],
    prompt: Annotated[
        str | None, typer.Option(help="prompt before the text", callback=in_utf8)
    ] = None,
    checkpoint: CheckpointOption = "stories",
    adapter: AdapterOption = None,
    estimator: Annotated[str, typer.Option(help="nelbo or llada")] = "nelbo",
    samples: Annotated[int, typer.Option(help="Monte Carlo samples")] = 128,
    mixing_ratio: Annotated[
        float | None,
        typer.Option(help="share of uniform noise, k", show_default="the checkpoint's, or 0.1"),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="also score the end token")] = False,
    seed: Annotated[int, typer.Option(help="same seed, same score")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
) -> None:
    """Estimate an upper bound of a text's negative log-likelihood."""
    from server.cli.generation import GenerationFailed, show_score
    from server.engine.factory import engine_of
    from server.engine.score_request import score_params, score_request

    chosen = {"estimator": estimator, "samples": samples, "seed": seed}
    loaded = load(checkpoint, device, dtype, adapter=adapter)
    if loaded.text is None:
        stop(f"{checkpoint}: tokenizer.json is missing")
    try:
        params = score_params(
            loaded.defaults, chosen | {"mixing_ratio": mixing_ratio}, loaded.info.mask_id
        )
        request = score_request(loaded, text, prompt, end, params)
    except InvalidParam as error:
        stop(str(error), 2)
    try:
        asyncio.run(show_score(engine_of(loaded, Settings.model_validate({})), request, as_json))
    except GenerationFailed as error:
        stop(str(error))
