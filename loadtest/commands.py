"""The commands of ``xdlm-loadtest``."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from loadtest import cli_types
from loadtest import prompts as prompt_files
from loadtest import report as reports
from loadtest.answer_reader import KINDS, Kind
from loadtest.errors import Refusal
from loadtest.files import text_of
from loadtest.measure import Quality, measure
from loadtest.plan import Plan, Setting, Workload
from loadtest.reconcile import against_counters, against_log
from loadtest.records import Folder
from loadtest.report_tables import IN_TERMINAL, load_table
from loadtest.server_probe import Unsuitable, own_server
from loadtest.summary import Run, read

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measures how many denoising steps a server can afford at a load, and their quality.",
)
out = Console(stderr=True)
Url = Annotated[
    str | None, typer.Option(help="address of the server, for example http://127.0.0.1:8000")
]
Slo = Annotated[
    str, typer.Option(help="latency objective: percentile=limit, for example p95=500ms")
]


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can fix in one line, and exit with code 2."""
    try:
        yield
    except (Refusal, OSError) as error:
        out.print(f"[bold red]xdlm-loadtest:[/bold red] {error}", highlight=False)
        raise typer.Exit(2) from None


@contextmanager
def server_of(url: str | None, serve: str | None) -> Iterator[str]:
    """The given address, or that of a server that runs while the block does."""
    if (url is None) == (serve is None):
        raise Unsuitable("give one of --url ADDRESS and --serve CHECKPOINT")
    if url is not None:
        yield cli_types.address(url)
        return
    with own_server((serve or "").split(",")) as found:
        yield found


def _key_of(file: Path | None) -> str | None:
    """The first word of a key file, if one is given."""
    if file is None:
        return None
    words = text_of(file).split()
    if not words:
        raise Refusal(f"{file} has no key")
    return words[0]


@app.command()
def sweep(
    directory: Annotated[
        Path, typer.Option("--out", help="folder of the run; the same command resumes it")
    ],
    url: Url = None,
    serve: Annotated[
        str | None, typer.Option(help="checkpoints for a server that is started and stopped here")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="step counts, for example 4,8,16,32,64")] = None,
    mixing_ratio: Annotated[
        str | None, typer.Option(help="mixing ratios, for example 0,0.1")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="closed loop: numbers of concurrent requests")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="open loop: requests per second, a Poisson process")
    ] = None,
    duration: Annotated[str, typer.Option(help="measured window of a cell")] = "30s",
    warmup: Annotated[
        str, typer.Option(help="the same load before the window, not counted")
    ] = "2s",
    drain: Annotated[
        str, typer.Option(help="time after the window for requests still running")
    ] = "10s",
    timeout: Annotated[str, typer.Option(help="limit of one request")] = "60s",
    repeats: Annotated[int, typer.Option(min=1, max=50, help="runs of every cell")] = 1,
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "completions",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="file, one prompt per line, or JSONL with prompt; default: openings of stories"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="name of the model; default: the first")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=65536)] = 64,
    sampler: Annotated[str | None, typer.Option(help="default: the server's")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="name=JSON, a further field of every body")
    ] = None,
    slo: Slo = "p95=500ms",
    seed: Annotated[int, typer.Option(min=0, max=10**9)] = 0,
    max_requests: Annotated[int, typer.Option(min=1, max=100_000, help="limit of one cell")] = 2000,
    max_minutes: Annotated[
        float, typer.Option(min=0.1, max=1440, help="limit of this command")
    ] = 60,
    answers: Annotated[
        int, typer.Option(min=0, max=10_000, help="answers judged per setting; 0: none")
    ] = 48,
    samples: Annotated[
        int, typer.Option(min=2, max=1024, help="Monte Carlo samples of each score")
    ] = 32,
    scorer: Annotated[
        Path | None, typer.Option(help="folder of a causal language model as judge of texts")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="npz of labelled images, to train a classifier as judge of images"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="weights that are served, file or folder: their SHA-256 is recorded"),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="file with the API key on its first line")
    ] = None,
) -> None:
    """Measure latency over steps x load, judge the same answers, and write a report."""
    with user_errors():
        if kind not in KINDS:
            raise Unsuitable(f"--kind {kind}: choose from {', '.join(KINDS)}")
        chosen = cli_types.fields(field or []) | ({"sampler": sampler} if sampler else {})
        ratios = cli_types.numbers(mixing_ratio, 0, 1) if mixing_ratio else [None]
        counts = [int(s) for s in cli_types.numbers(steps, 1, 4096, True)] if steps else [None]
        read_prompts = prompt_files.read(prompts) if prompts else ()
        plan = Plan(
            workload=Workload(cast(Kind, kind), model, read_prompts, max_tokens, chosen, seed),
            settings=tuple(Setting(s, k) for k in ratios for s in counts),
            loads=cli_types.loads(concurrency, rate),
            repeats=repeats,
            warmup=cli_types.duration(warmup),
            duration=cli_types.duration(duration),
            drain=cli_types.duration(drain),
            timeout=cli_types.duration(timeout),
            max_requests=max_requests,
        )
        objective = cli_types.objective(slo)
        quality = Quality(answers, samples, scorer, examples)
        key = _key_of(api_key_file)
        least, most = plan.seconds
        out.print(
            f"{len(plan.cells())} cells, {least / 60:.1f} to {most / 60:.1f} minutes", style="dim"
        )
        with server_of(url, serve) as base:
            folder = Folder(directory)
            left = asyncio.run(
                measure(base, plan, folder, quality, key, weights, 60 * max_minutes, out)
            )
        if left:
            out.print(f"{left} cells are left; the same command resumes the run")
        finish(read(folder, objective), directory)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="folder of a run")],
    slo: Slo = "p95=500ms",
    pictures: Annotated[
        Path | None, typer.Option(help="folder of the PNG files, if not that of the run")
    ] = None,
) -> None:
    """Write the report of a run again, for example with another objective."""
    with user_errors():
        finish(read(Folder(directory), cli_types.objective(slo)), directory, pictures)


@app.command()
def compare(
    first: Path,
    second: Path,
    directory: Annotated[Path, typer.Option("--out", help="folder of compare.html")],
    slo: Slo = "p95=500ms",
) -> None:
    """Compare two runs side by side."""
    with user_errors():
        objective = cli_types.objective(slo)
        runs = [read(Folder(path), objective) for path in (first, second)]
        if runs[0].name == runs[1].name:
            runs = [replace(run, name=str(p)) for run, p in zip(runs, (first, second), strict=True)]
        out.print(f"written: {reports.compare(runs[0], runs[1], directory)}")


@app.command()
def ledger(
    directory: Annotated[Path, typer.Argument(help="folder of a run")],
    log: Annotated[Path, typer.Argument(help="the server's log (JSON lines)")],
) -> None:
    """Find lost requests: compare the run's records with the server's log and counters. Exit code
    1 if they differ.
    """
    with user_errors():
        folder = Folder(directory)
        header = folder.header()
        if header is None:
            raise Unsuitable(f"{directory} has no run")
        cells = list(folder.cells())
        compared = against_log(cells, text_of(log).splitlines())
        kind = header["plan"]["workload"]["kind"]
        counted = [words for cell in cells if (words := against_counters(cell, kind))]
    print(f"{compared.sent} sent, {compared.logged} in the log, {len(compared.missing)} lost")
    for field in ("missing", "twice", "unlike"):
        for name in getattr(compared, field):
            print(f"{field}: {name}")
    print("\n".join(counted) or "the counters of every cell agree")
    raise typer.Exit(0 if compared.agrees and not counted else 1)


@app.command()
def smoke(
    url: Url = None,
    directory: Annotated[
        Path | None, typer.Option("--out", help="folder of the run; default: a temporary one")
    ] = None,
    seconds: Annotated[float, typer.Option(min=4, max=600, help="duration of the load")] = 16,
    slo: Slo = "p95=500ms",
) -> None:
    """A load test of twenty seconds: two step counts, one and four requests at a time. Without
    --url it starts a server with the bundled checkpoint. Exit code 1 if any request failed.
    """
    plan = Plan(
        workload=Workload("completions", None, (), 64, {}),
        settings=(Setting(4, None), Setting(16, None)),
        loads=cli_types.loads("1,4", None),
        repeats=1,
        warmup=seconds / 16,
        duration=seconds * 3 / 16,
        drain=60,
        timeout=60,
        max_requests=500,
    )
    with user_errors(), tempfile.TemporaryDirectory() as temporary:
        path = directory or Path(temporary) / "smoke"
        if Folder(path).header() is not None:
            raise Refusal(f"{path} has a run already; a smoke test needs an empty folder")
        with server_of(url, None if url else "stories") as base:
            asyncio.run(measure(base, plan, Folder(path), Quality(12, 16), None, None, 300, out))
        finish(read(Folder(path), cli_types.objective(slo)), path, written=directory is not None)
        ended = [r.failure is None for cell in Folder(path).cells() for r in cell.records]
    ok, failed = ended.count(True), ended.count(False)
    print(f"{ok} ok, {failed} failed")
    raise typer.Exit(1 if failed or not ok else 0)


def finish(run: Run, directory: Path, pictures: Path | None = None, written: bool = True) -> None:
    """Print the table, warnings and answers, and write the report."""
    whole = load_table(run, intervals=False)
    table = Table(box=None, header_style="bold")
    kept = [whole.head.index(name) for name in IN_TERMINAL]
    for at in kept:
        table.add_column(whole.head[at], justify="left" if at == 0 else "right")
    for row in whole.rows:
        table.add_row(*(row[at] for at in kept))
    console = Console()
    console.print(table)
    for line in [*reports.warnings(run), *reports.answer(run)]:
        console.print(f"• {line}", highlight=False)
    if written:
        out.print(f"written: {reports.write(run, directory, pictures)}")
