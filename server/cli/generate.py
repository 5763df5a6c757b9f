"""``xdlm generate``: generate one text without a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from models.checkpoints.load import Checkpoint
from sampler.params import InvalidParam
from server.cli.common import (
    AdapterOption,
    CheckpointOption,
    DeviceOption,
    DTypeOption,
    in_utf8,
    load,
    params_of,
    stop,
)
from server.cli.constraints import constrained, constraint_of
from server.config import Settings
from server.engine.events import GenerationRequest
from server.engine.request_params import default_length


def generate(
    prompt: Annotated[str, typer.Argument(help="prompt of the text", callback=in_utf8)] = "",
    checkpoint: CheckpointOption = "stories",
    adapter: AdapterOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="positions to fill", show_default="the checkpoint's, or what fits"),
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option(help="token ids instead of a prompt: 5,9,2")
    ] = None,
    infill: Annotated[bool, typer.Option("--infill", help="fill masks in --prompt-ids")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="show the canvas at every step")] = False,
    delay: Annotated[
        float, typer.Option(min=0, max=3600, help="with --watch: seconds between steps")
    ] = 0.12,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout; with --watch a line a step")
    ] = False,
    svg: Annotated[Path | None, typer.Option(help="with --watch: save a picture here")] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(
            help="JSON schema of the text, or the path of a file with one", callback=in_utf8
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(help="regular expression that the whole text matches", callback=in_utf8),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    *,
    chosen: dict[str, Any],
) -> None:
    """Generate one text, without a server."""
    from server.cli.generation import GenerationFailed, show_ids, show_text
    from server.cli.terminal import Viewer
    from server.engine.factory import engine_of
    from server.engine.preparation import prepared

    shown = watch and not as_json and prompt_ids is None
    if svg is not None and not shown:
        stop("--svg needs --watch, without --json and --prompt-ids", 2)
    loaded = load(checkpoint, device, dtype, adapter=adapter)
    constraint = constraint_of(json_schema, regex)
    params = params_of(loaded, chosen, None if constraint is None else constraint[0])
    ids = _prompt(loaded, prompt, prompt_ids)
    room, hole = loaded.info.max_length - len(ids), loaded.info.mask_id if infill else None
    if infill and hole is None:
        stop("--infill needs a model with a mask", 2)
    if loaded.info.mask_id in ids and not infill and not params.own.reads_given_masks:
        stop(f"--prompt-ids hold the mask id {loaded.info.mask_id}; use --infill to fill it", 2)
    length = default_length(loaded.defaults, room) if max_tokens is None else max_tokens
    least = 0 if hole in ids else 1
    if not least <= length <= room:
        stop(f"--max-tokens must lie between {least} and {room} with this prompt", 2)
    try:
        request = GenerationRequest.continuing(ids, length, params, watch, hole)
        if constraint is not None:
            request = constrained(loaded, request, *constraint)
        engine = engine_of(loaded, Settings.model_validate({}))
        request = prepared(request, engine.caching)
    except InvalidParam as error:
        stop(str(error), 2)
    request = replace(request, lossless=True)
    try:
        if prompt_ids is not None:
            asyncio.run(show_ids(engine, request, len(ids), as_json))
        else:
            viewer = Viewer(loaded, len(ids), delay, svg) if shown else None
            asyncio.run(show_text(engine, request, len(ids), viewer, as_json))
    except GenerationFailed as error:
        stop(str(error))
    except OSError as error:
        if svg is None or error.filename is None:
            raise
        stop(f"--svg: {error.filename}: {error.strerror}", 2)


def _prompt(loaded: Checkpoint, prompt: str, prompt_ids: str | None) -> list[int]:
    """Ids of the prompt, given as text or as ids."""
    if prompt_ids is None:
        if loaded.text is None:
            stop("the checkpoint has no tokenizer.json; give --prompt-ids", 2)
        return loaded.text.encode(prompt)
    if prompt:
        stop("give a prompt or --prompt-ids, not both", 2)
    try:
        ids = [int(i) for i in prompt_ids.split(",")]
    except ValueError:
        stop("--prompt-ids must be integers with commas between", 2)
    if not all(0 <= i < loaded.info.vocab_size for i in ids):
        stop(f"--prompt-ids must lie between 0 and {loaded.info.vocab_size - 1}", 2)
    return ids
