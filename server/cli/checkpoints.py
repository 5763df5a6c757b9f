"""``xdlm info``, ``make-random`` and ``convert``: describe and create checkpoints."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.checkpoints.load import checkpoint_outline
from models.errors import CheckpointError
from models.files import read_json
from models.hub.names import hub_name
from models.hub.recipes import recipe_of
from models.printable import printable
from models.registry import FAMILIES, family_of
from server.cli.common import (
    NAMED,
    AdapterOption,
    check_generation_config,
    errors,
    inspected,
    place_of,
    stop,
)
from server.cli.memory import memory_line, memory_of
from server.cli.progress import ShownProgress

*_FIRST, _LAST = FAMILIES
_NAMES = f"{', '.join(_FIRST)} or {_LAST}"
_SHAPES = ", ".join(
    f"{', '.join(named)} ({spec.name})"
    for spec in FAMILIES.values()
    if (named := [shape for shape in spec.shapes if shape != "tiny"])
)


def info(
    checkpoint: Annotated[str, typer.Argument(help=NAMED)] = "stories",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
) -> None:
    """Describe a checkpoint. Of one on the hub, no weights are downloaded for that."""
    from dataclasses import asdict

    from server.engine.request_params import ModelKind

    facts_of, defaults, needs, quantisation = inspected(checkpoint)
    kind = ModelKind.of(facts_of)
    check_generation_config(checkpoint, defaults, kind)
    noise = {"mixing_ratio": defaults.get("mixing_ratio", "unknown")}
    facts = {
        **asdict(facts_of),
        **noise,
        "samplers": kind.samplers,
        "defaults": defaults,
        "memory": memory_of(facts_of, needs),
    }
    if quantisation:
        facts["quantization"] = quantisation
    if (recipe := recipe_of(facts_of.name)) is not None:
        facts["recipe"] = asdict(recipe)
    if as_json:
        print(json.dumps(facts))
        return
    out = Console(highlight=False)
    facts["memory"] = memory_line(facts_of, needs)
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        out.print(f"{name:>12}  {printable(shown)}", soft_wrap=True, markup=False)


def make_random(
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    family: Annotated[str, typer.Option(help=_NAMES)] = "llada",
    shape: Annotated[
        str,
        typer.Option(help=f"tiny, {_SHAPES}, fields of config.json, or both: tiny,n_layers=4"),
    ] = "tiny",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="fixes the weights")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "bfloat16",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="the checkpoint to take tokenizer and ids from"),
    ] = None,
) -> None:
    """Write a seeded random checkpoint of any shape."""
    import torch

    from models.checkpoints.random_init import parse_shape, write_random

    if family not in FAMILIES:
        stop(f"--family must be {' or '.join(FAMILIES)}, not {family!r}", 2)
    if dtype not in ("float32", "bfloat16"):
        stop(f"--dtype must be float32 or bfloat16, not {dtype!r}", 2)
    try:
        with checkpoint_outline(tokenizer) if tokenizer else nullcontext() as source:
            write_random(
                folder,
                parse_shape(shape, family, source),
                family=family,
                seed=seed,
                dtype=getattr(torch, dtype),
                tokenizer=source,
                progress=ShownProgress(errors),
            )
    except CheckpointError as error:
        stop(str(error))


def convert(
    source: Annotated[
        Path, typer.Argument(help="a folder, ORG/NAME on the hub, .safetensors or .ckpt file")
    ],
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    mixing_ratio: Annotated[
        float | None, typer.Option(help="training mixing ratio k, if the checkpoint has none")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="use weights without averaging")] = False,
    config: Annotated[
        str, typer.Option(help="values missing for config.json: n_heads=12,model_length=1024")
    ] = "",
    vq: Annotated[
        Path | None, typer.Option(help="LlamaGen's tokenizer of images: vq_ds16_c2i.pt")
    ] = None,
    adapter: AdapterOption = None,
) -> None:
    """Make a folder to serve from a published checkpoint. Pickles are read as data, never run."""
    from models.checkpoints.convert import convert as write
    from models.checkpoints.random_init import parse_fields
    from server.engine.request_params import ModelKind

    try:
        fields = parse_fields(config, {}, "--config") if config else {}
        if not source.exists() and hub_name(str(source)) is not None:
            source = place_of(str(source))
        if source.is_dir():
            said = read_json(source / "generation_config.json", required=False)
            shape = read_json(source / "config.json", required=False)
            if (spec := family_of(shape)) is not None:
                said = {**spec.read_defaults(said)}
            has_mask = shape.get("mask_token_id", 0) is not None
            kind = ModelKind(has_mask, on_canvases="canvas_length" in shape)
            check_generation_config(str(source), said, kind)
        written = write(
            source,
            folder,
            mixing_ratio=mixing_ratio,
            raw=raw,
            config=fields,
            decoder=vq,
            adapter=adapter,
            progress=ShownProgress(errors),
        )
    except CheckpointError as error:
        stop(str(error))
    facts = f"{written.family}, {written.parameters:,} parameters, {written.dtype}"
    print(f"{printable(str(folder))}: {facts}")
