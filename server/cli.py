"""The command line, and the only composition root: it builds the pieces and puts them together."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from models import checkpoint as checkpoints
from models.memory import keep_freed_memory
from sampler.params import InvalidParam, SamplingParams
from server.choices import default_length, sampling_params
from server.config import Settings
from server.events import GenerationRequest

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve, watch and inspect discrete-diffusion language models.",
)
errors = Console(stderr=True, highlight=False)

CheckpointArg = Annotated[str, typer.Argument(help="a bundled name (stories) or a folder")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
DTypeOption = Annotated[str, typer.Option(help="auto, float32 or bfloat16")]


def main() -> None:
    """Entry point of the ``xdlm`` console script."""
    keep_freed_memory()
    app()


def _quit(message: str, code: int = 1) -> NoReturn:
    errors.print(f"xdlm: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _load(name: str, device: str, dtype: str, threads: int = 0) -> checkpoints.Checkpoint:
    import torch

    if dtype not in ("auto", "float32", "bfloat16"):
        _quit(f"--dtype must be auto, float32 or bfloat16, not {dtype!r}", 2)
    if threads:
        torch.set_num_threads(threads)
    try:
        return checkpoints.load(checkpoints.find(name), device, dtype)  # type: ignore[arg-type]
    except checkpoints.CheckpointError as error:
        _quit(str(error))


def _params(loaded: checkpoints.Checkpoint, chosen: dict[str, Any]) -> SamplingParams:
    try:
        return sampling_params(loaded.defaults, chosen)
    except InvalidParam as error:
        _quit(str(error), 2)


@app.command()
def serve(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="bundled names or folders; several are served at once"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port; 0 picks a free one")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0 takes all")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="requests queued before 429")] = None,
    max_running: Annotated[int | None, typer.Option(help="requests denoised together")] = None,
    max_positions: Annotated[int | None, typer.Option(help="canvas positions in a step")] = None,
    api_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key", help="accept this key; may be repeated. Others can see flags: ps"
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="accept the keys of this file, one a line")
    ] = None,
    docs: Annotated[
        bool | None, typer.Option("--docs", help="serve the API's reference at /docs")
    ] = None,
) -> None:
    """Serve checkpoints over HTTP. Flags override XDLM_* variables, of which there are more."""
    from pydantic import ValidationError

    checkpoints = checkpoints or None  # no argument is an empty list
    flags = {k: v for k, v in locals().items() if v is not None and k in Settings.model_fields}
    try:
        settings = Settings.model_validate(flags)
    except ValidationError as error:
        first = error.errors()[0]
        _quit(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}", 2)
    _serve(settings)


def listening(host: str, port: int) -> socket.socket:
    """A socket whose connections send at once. Asyncio sees to that only for sockets that it made
    itself; without it the body of an answer waits for the client to acknowledge the headers, some
    40 ms.

    Raises:
        OSError: the address cannot be listened on.
    """
    listener = socket.create_server((host, port), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _serve(settings: Settings) -> None:
    from server import logs
    from server.app import create_app
    from server.build import engine_of
    from server.metrics import Metrics
    from server.serving import Server

    logs.configure()
    try:
        listener = listening(settings.host, settings.port)
    except OSError as error:
        _quit(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    models = [_loaded_for_serving(name, settings) for name in settings.checkpoints]
    names = [loaded.info.name for loaded in models]
    if len(set(names)) < len(names):
        _quit(f"two checkpoints have the same name: {', '.join(sorted(names))}", 2)
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    out = Console(highlight=False)
    for info in (loaded.info for loaded in models):
        size = f"{info.parameters / 1e6:.1f} M parameters, {info.dtype}"
        out.print(f"{info.name}: {size}", style="dim")
    out.print(f"Listening on [bold]{url}[/bold]. Try:\n")
    for route, body in _examples(models):
        out.print(
            f"  curl {url}{route} -H 'Content-Type: application/json' -d '{json.dumps(body)}'\n",
            soft_wrap=True,
            markup=False,
        )
    metrics = Metrics()
    engines = [engine_of(loaded, settings, metrics) for loaded in models]
    app = create_app(engines, settings)
    Server(app, engines, settings.shutdown_seconds).run([listener])


def _loaded_for_serving(name: str, settings: Settings) -> checkpoints.Checkpoint:
    """A checkpoint that can answer its first request at once. Defaults that make no sense are
    refused before the port is announced.
    """
    loaded = _load(name, settings.device, settings.dtype, settings.threads)
    if loaded.text is None and loaded.info.image is None:
        _quit(f"{name}: tokenizer.json is missing")
    if loaded.info.image is not None:
        try:
            loaded.check_pixels()
        except checkpoints.CheckpointError as error:
            _quit(str(error))
    _params(loaded, {})
    _warm_up(loaded)
    return loaded


def _examples(models: list[checkpoints.Checkpoint]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A route and a body for each kind of model."""
    if any(loaded.info.image is None for loaded in models):
        yield "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 120}
    if any(loaded.info.image is not None for loaded in models):
        yield "/v1/images/generations", {"prompt": "7"}


def _warm_up(checkpoint: checkpoints.Checkpoint) -> None:
    """One short run, so that the first request does not pay for first-use set-up."""
    from sampler import SAMPLERS
    from sampler.canvas import CanvasBatch
    from sampler.step import take_step

    info = checkpoint.info
    sampler = SAMPLERS["ancestral"](info.vocab_size, info.mask_id, checkpoint.ends)
    length = min(64, info.max_length) if info.image is None else info.image.length
    canvas = ([0] * length, [True] * length, SamplingParams(steps=1, top_p=0.9))
    batch = sampler.begin(CanvasBatch.of([canvas], checkpoint.device))
    for _ in range(2):
        batch = take_step(sampler, checkpoint.model, batch).batch


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="how the text begins")] = "",
    checkpoint: Annotated[str, typer.Option(help="a bundled name or a folder")] = "stories",
    max_tokens: Annotated[int | None, typer.Option(help="positions to fill")] = None,
    prompt_ids: Annotated[
        str | None, typer.Option(help="token ids instead of a prompt: 5,9,2")
    ] = None,
    infill: Annotated[bool, typer.Option("--infill", help="fill masks in --prompt-ids")] = False,
    steps: Annotated[int | None, typer.Option(help="denoising steps")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ancestral, topk, threshold, gidd or remdm")
    ] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    mixing_ratio: Annotated[float | None, typer.Option(help="share of uniform noise, k")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="w; 1 is off")] = None,
    noise_removal: Annotated[str | None, typer.Option(help="ancestral, greedy or none")] = None,
    block_length: Annotated[
        int | None, typer.Option(help="topk, threshold: positions of a block")
    ] = None,
    refine_scope: Annotated[str | None, typer.Option(help="topk: generated or block")] = None,
    confidence_threshold: Annotated[
        float | None, typer.Option(help="threshold: fill masks at least this sure")
    ] = None,
    entropy_bound: Annotated[float | None, typer.Option(help="threshold: in nats")] = None,
    confidence_factor: Annotated[
        float | None, typer.Option(help="threshold: f of Fast-dLLM's rule")
    ] = None,
    remasking: Annotated[str | None, typer.Option(help="topk: low_confidence or random")] = None,
    logits_eos_inf: Annotated[
        bool, typer.Option("--logits-eos-inf", help="topk, threshold: never write the end token")
    ] = False,
    confidence_eos_eot_inf: Annotated[
        bool, typer.Option("--confidence-eos-eot-inf", help="topk: write the end tokens last")
    ] = False,
    compat: Annotated[
        str | None, typer.Option(help="topk: official repeats the published loop")
    ] = None,
    p_uniform: Annotated[float | None, typer.Option(help="gidd: share of uniform noise")] = None,
    remdm_schedule: Annotated[str | None, typer.Option(help="remdm: cap, rescale or loop")] = None,
    remdm_eta: Annotated[float | None, typer.Option(help="remdm: how much is masked again")] = None,
    remdm_t_on: Annotated[float | None, typer.Option(help="remdm, loop: begins here")] = None,
    remdm_t_off: Annotated[float | None, typer.Option(help="remdm, loop: ends here")] = None,
    remdm_alpha_on: Annotated[
        float | None, typer.Option(help="remdm, loop: signal held in it")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="same seed, same text")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="show the canvas at every step")] = False,
    delay: Annotated[float, typer.Option(help="with --watch: seconds between steps")] = 0.12,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout; with --watch a line a step")
    ] = False,
    svg: Annotated[Path | None, typer.Option(help="with --watch: save a picture here")] = None,
    device: DeviceOption = "cpu",
    dtype: DTypeOption = "auto",
) -> None:
    """Generate one text, without a server."""
    from server.build import engine_of
    from server.generate import GenerationFailed, show_ids, show_text
    from server.terminal import Viewer

    flags = {k: v for k, v in locals().items() if v is not None}
    loaded = _load(checkpoint, device, dtype)
    params = _params(loaded, flags)
    ids = _prompt(loaded, prompt, prompt_ids)
    room, hole = loaded.info.max_length - len(ids), loaded.info.mask_id if infill else None
    if loaded.info.mask_id in ids and not infill and params.compat != "official":
        _quit(f"--prompt-ids hold the mask id {loaded.info.mask_id}; --infill has it filled", 2)
    length = default_length(loaded.defaults, room) if max_tokens is None else max_tokens
    least = 0 if hole in ids else 1
    if not least <= length <= room:
        _quit(f"--max-tokens must lie between {least} and {room} behind this prompt", 2)
    try:
        request = GenerationRequest.continuing(ids, length, params, watch, hole)
    except InvalidParam as error:
        _quit(str(error), 2)
    request = replace(request, lossless=True)
    engine = engine_of(loaded, Settings.model_validate({}))
    try:
        if prompt_ids is not None:
            asyncio.run(show_ids(engine, request, len(ids), as_json))
        else:
            viewer = Viewer(loaded, len(ids), delay, svg) if watch and not as_json else None
            asyncio.run(show_text(engine, request, len(ids), viewer, as_json))
    except GenerationFailed as error:
        _quit(str(error))


def _prompt(loaded: checkpoints.Checkpoint, prompt: str, prompt_ids: str | None) -> list[int]:
    """Ids of the prompt, given as text or as ids."""
    if prompt_ids is None:
        if loaded.text is None:
            _quit("the checkpoint has no tokenizer.json; give --prompt-ids", 2)
        return loaded.text.encode(prompt)
    if prompt:
        _quit("give a prompt or --prompt-ids, not both", 2)
    try:
        ids = [int(i) for i in prompt_ids.split(",")]
    except ValueError:
        _quit("--prompt-ids must be integers with commas between", 2)
    if not all(0 <= i < loaded.info.vocab_size for i in ids):
        _quit(f"--prompt-ids must lie between 0 and {loaded.info.vocab_size - 1}", 2)
    return ids


@app.command()
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
    from server.build import engine_of
    from server.generate import GenerationFailed, show_score
    from server.score import score_params, score_request

    chosen = {"estimator": estimator, "samples": samples, "seed": seed}
    loaded = _load(checkpoint, device, dtype)
    if loaded.text is None:
        _quit(f"{checkpoint}: tokenizer.json is missing")
    try:
        params = score_params(loaded.defaults, chosen | {"mixing_ratio": mixing_ratio})
        request = score_request(loaded, text, prompt, end, params)
    except InvalidParam as error:
        _quit(str(error), 2)
    try:
        asyncio.run(show_score(engine_of(loaded, Settings.model_validate({})), request, as_json))
    except GenerationFailed as error:
        _quit(str(error))


@app.command()
def draw(
    what: Annotated[str, typer.Argument(help="a class, by its name or number; all for each")],
    out: Annotated[Path, typer.Argument(help="a picture file: .png, .webp")],
    checkpoint: Annotated[str, typer.Option(help="a bundled name or a folder")] = "digits",
    count: Annotated[int, typer.Option(min=1, max=256, help="images of each class")] = 1,
    film: Annotated[
        int, typer.Option(min=0, help="show so many moments of the first image instead")
    ] = 0,
    scale: Annotated[int, typer.Option(min=1, max=64, help="show each pixel so large")] = 4,
    steps: Annotated[int | None, typer.Option(help="denoising steps")] = None,
    sampler: Annotated[str | None, typer.Option(help="how tokens are decided")] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    mixing_ratio: Annotated[float | None, typer.Option(help="share of uniform noise, k")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="w; 1 is off")] = None,
    seed: Annotated[int, typer.Option(help="of the first image; the others count on")] = 0,
    device: DeviceOption = "cpu",
    dtype: DTypeOption = "auto",
) -> None:
    """Draw images of a class into one picture, or show how one comes about."""
    from server.build import engine_of
    from server.choices import class_named
    from server.draw import drawn, spread, tiled
    from server.generate import GenerationFailed

    chosen = {k: v for k, v in locals().items() if v is not None}
    loaded = _load(checkpoint, device, dtype)
    params = _params(loaded, chosen)
    try:
        shape = loaded.check_pixels()
        labels = range(loaded.info.classes) if what == "all" else [class_named(loaded.info, what)]
        wanted = [
            replace(params, class_label=label, seed=seed + i * count + j)
            for i, label in enumerate(labels)
            for j in range(count)
        ]
        engine = engine_of(loaded, Settings.model_validate({}))
        states = asyncio.run(drawn(engine, shape.length, wanted[:1] if film else wanted))
    except (InvalidParam, GenerationFailed, checkpoints.CheckpointError) as error:
        _quit(str(error), 2)
    canvases = spread(states[0], film) if film else [of_one[-1] for of_one in states]
    columns = len(canvases) if film else count
    try:
        tiled(loaded, canvases, columns, scale).save(out)
    except (OSError, ValueError) as error:
        _quit(f"{out}: {error}", 2)
    print(f"{out}: {len(canvases)} pictures")


@app.command()
def info(
    checkpoint: CheckpointArg = "stories",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
) -> None:
    """Say what a checkpoint is."""
    from dataclasses import asdict

    from sampler import SAMPLERS

    try:
        facts_of, defaults = checkpoints.inspect(checkpoints.find(checkpoint))
    except checkpoints.CheckpointError as error:
        _quit(str(error))
    noise = {"mixing_ratio": defaults.get("mixing_ratio", "unknown")}
    facts = {**asdict(facts_of), **noise, "samplers": list(SAMPLERS), "defaults": defaults}
    if as_json:
        print(json.dumps(facts))
        return
    out = Console(highlight=False)
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        out.print(f"{name:>12}  {shown}", soft_wrap=True, markup=False)


@app.command("make-random")
def make_random(
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    family: Annotated[str, typer.Option(help="llada, dit or unet")] = "llada",
    shape: Annotated[
        str,
        typer.Option(
            help="tiny, llada-8b (llada), small-owt, small-lm1b, small-imagenet, medium-owt, "
            "tiny-owt, tiny-image (dit), cifar10 (unet), "
            "fields of config.json, or both: tiny,n_layers=4"
        ),
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="fixes the weights")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "bfloat16",
    tokenizer: Annotated[
        str | None, typer.Option(help="a bundled name or folder to take the tokenizer from")
    ] = None,
) -> None:
    """Write a seeded random checkpoint of any shape."""
    import torch

    from models.random import FAMILIES, parse_shape, write_random

    if family not in FAMILIES:
        _quit(f"--family must be {' or '.join(FAMILIES)}, not {family!r}", 2)
    if dtype not in ("float32", "bfloat16"):
        _quit(f"--dtype must be float32 or bfloat16, not {dtype!r}", 2)
    try:
        source = checkpoints.find(tokenizer) if tokenizer else None
        write_random(
            folder,
            parse_shape(shape, family),
            family=family,
            seed=seed,
            dtype=getattr(torch, dtype),
            tokenizer=source,
        )
    except checkpoints.CheckpointError as error:
        _quit(str(error))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a folder, .safetensors or .ckpt, by its content")],
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    mixing_ratio: Annotated[
        float | None, typer.Option(help="k that it was trained with, where it does not say")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="trained weights, not their average")] = False,
    config: Annotated[
        str, typer.Option(help="what it does not say of config.json: n_heads=12,model_length=1024")
    ] = "",
    vq: Annotated[
        Path | None, typer.Option(help="LlamaGen's tokenizer of images: vq_ds16_c2i.pt")
    ] = None,
) -> None:
    """Make a folder to serve from a published checkpoint. Pickles are read as data, never run."""
    from models.convert import convert as write
    from models.random import parse_fields

    try:
        fields = parse_fields(config, {}, "--config") if config else {}
        written = write(
            source, folder, mixing_ratio=mixing_ratio, raw=raw, config=fields, decoder=vq
        )
    except checkpoints.CheckpointError as error:
        _quit(str(error))
    print(f"{folder}: {written.family}, {written.parameters:,} parameters, {written.dtype}")


if __name__ == "__main__":
    sys.exit(main())
