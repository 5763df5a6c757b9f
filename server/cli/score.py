"""``xdlm score``: how likely a text is."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sampler.params import InvalidParam
from server.cli.common import DeviceOption, DTypeOption, load, stop
from server.config import Settings


def score(
    text: Annotated[str, typer.Argument(help="what is scored")],
    prompt: Annotated[str | None, typer.Option(help="what it follows")] = None,
    checkpoint: Annotated[str, typer.Option(help="a bundled name or a folder")] = "stories",
    estimator: Annotated[str, typer.Option(help="nelbo, or llada's conditional one")] = "nelbo",
    samples: Annotated[int, typer.Option(help="Monte Carlo samples")] = 128,
    mixing_ratio: Annotated[float | None, typer.Option(help="share of uniform noise, k")] = None,
    end: Annotated[bool, typer.Option("--end", help="the end token is scored too")] = False,
    seed: Annotated[int, typer.Option(help="same seed, same score")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
    device: DeviceOption = "cpu",
    dtype: DTypeOption = "auto",
) -> None:
    """Say how likely a text is: an upper bound of its negative log-likelihood."""
    from server.cli.generation import GenerationFailed, show_score
    from server.engine.factory import engine_of
    from server.engine.score import score_params, score_request

    chosen = {"estimator": estimator, "samples": samples, "seed": seed}
    loaded = load(checkpoint, device, dtype)
    if loaded.text is None:
        stop(f"{checkpoint}: tokenizer.json is missing")
    try:
        params = score_params(loaded.defaults, chosen | {"mixing_ratio": mixing_ratio})
        request = score_request(loaded, text, prompt, end, params)
    except InvalidParam as error:
        stop(str(error), 2)
    try:
        asyncio.run(show_score(engine_of(loaded, Settings.model_validate({})), request, as_json))
    except GenerationFailed as error:
        stop(str(error))
