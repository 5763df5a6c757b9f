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
from loadtest.errors import Refusal
from loadtest.measure import Quality, measure
from loadtest.plan import Plan, Setting, Workload
from loadtest.reconcile import against_counters, against_log
from loadtest.records import Folder
from loadtest.server_probe import Unsuitable, own_server
from loadtest.sse import KINDS, Kind
from loadtest.summary import Run, read

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How many steps can you afford at a load, and what do they buy? Asks a server over HTTP.",
)
out = Console(stderr=True)
Url = Annotated[str | None, typer.Option(help="the server, for example http://127.0.0.1:8000")]
Slo = Annotated[str, typer.Option(help="objective: so many percent within so long, p95=500ms")]


@contextmanager
def told_plainly() -> Iterator[None]:
    """What a user can put right is one line and exit code 2."""
    try:
        yield
    except (Refusal, OSError) as error:
        out.print(f"[bold red]xdlm-loadtest:[/bold red] {error}", highlight=False)
        raise typer.Exit(2) from None


@contextmanager
def server_of(url: str | None, serve: str | None) -> Iterator[str]:
    """The address that was given, or that of a server which is started here and stopped again."""
    if (url is None) == (serve is None):
        raise Unsuitable("give one of --url ADDRESS and --serve CHECKPOINT")
    if url is not None:
        yield cli_types.address(url)
        return
    with own_server((serve or "").split(",")) as found:
        yield found


@app.command()
def sweep(
    directory: Annotated[Path, typer.Option("--out", help="folder of the run; a rerun goes on")],
    url: Url = None,
    serve: Annotated[
        str | None, typer.Option(help="start xdlm serve with this, and stop it again")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="4,8,16,32,64")] = None,
    mixing_ratio: Annotated[str | None, typer.Option(help="0,0.1")] = None,
    concurrency: Annotated[str | None, typer.Option(help="closed loop: so many at a time")] = None,
    rate: Annotated[str | None, typer.Option(help="open loop: so many a second, Poisson")] = None,
    duration: Annotated[str, typer.Option(help="of the window of a cell")] = "30s",
    warmup: Annotated[str, typer.Option(help="same load before it, not counted")] = "2s",
    drain: Annotated[str, typer.Option(help="after it, for requests under way")] = "10s",
    timeout: Annotated[str, typer.Option(help="of one request")] = "60s",
    repeats: Annotated[int, typer.Option(min=1, max=50, help="of every cell")] = 1,
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "completions",
    prompts: Annotated[
        Path | None, typer.Option(help="one a line, or JSONL with prompt; default: openings")
    ] = None,
    model: Annotated[str | None, typer.Option(help="by name; default: the first")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=65536)] = 64,
    sampler: Annotated[str | None, typer.Option(help="default: the server's")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="name=JSON, one more field of every body")
    ] = None,
    slo: Slo = "p95=500ms",
    seed: Annotated[int, typer.Option(min=0, max=10**9)] = 0,
    max_requests: Annotated[int, typer.Option(min=1, max=100_000, help="of one cell")] = 2000,
    max_minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="of this command")] = 60,
    answers: Annotated[int, typer.Option(min=0, max=10_000, help="judged per setting")] = 48,
    samples: Annotated[int, typer.Option(min=2, max=1024, help="behind each score")] = 32,
    scorer: Annotated[
        Path | None, typer.Option(help="folder of a causal language model that judges")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="npz of labelled images, for a classifier that judges")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="file or folder that is served: its hash is kept")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="its first line is sent")] = None,
) -> None:
    """Measure steps x load, judge the same answers, and write a report."""
    with told_plainly():
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
        key = api_key_file.read_text().split()[0] if api_key_file else None
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
            out.print(f"{left} cells are left; the same command goes on")
        finish(read(folder, objective), directory)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="a run")],
    slo: Slo = "p95=500ms",
    pictures: Annotated[Path | None, typer.Option(help="where the PNGs go instead")] = None,
) -> None:
    """Write the report of a run anew, if need be with another objective."""
    with told_plainly():
        finish(read(Folder(directory), cli_types.objective(slo)), directory, pictures)


@app.command()
def compare(
    first: Path,
    second: Path,
    directory: Annotated[Path, typer.Option("--out", help="where compare.html goes")],
    slo: Slo = "p95=500ms",
) -> None:
    """Set two runs side by side."""
    with told_plainly():
        objective = cli_types.objective(slo)
        runs = [read(Folder(path), objective) for path in (first, second)]
        if runs[0].name == runs[1].name:
            runs = [replace(run, name=str(p)) for run, p in zip(runs, (first, second), strict=True)]
        out.print(f"written: {reports.compare(runs[0], runs[1], directory)}")


@app.command()
def ledger(
    directory: Annotated[Path, typer.Argument(help="a run")],
    log: Annotated[Path, typer.Argument(help="the server's log, JSON lines")],
) -> None:
    """Look for lost requests: the run's records against the server's log and its counters. Exit
    code 1 if they differ.
    """
    with told_plainly():
        folder = Folder(directory)
        header = folder.header()
        if header is None:
            raise Unsuitable(f"{directory} holds no run")
        cells = list(folder.cells())
        account = against_log(cells, log.read_text().splitlines())
        kind = header["plan"]["workload"]["kind"]
        counted = [words for cell in cells if (words := against_counters(cell, kind))]
    print(f"{account.sent} sent, {account.logged} in the log, {len(account.missing)} lost")
    for what in ("missing", "twice", "unlike"):
        for name in getattr(account, what):
            print(f"{what}: {name}")
    print("\n".join(counted) or "the counters of every cell agree")
    raise typer.Exit(0 if account.agrees and not counted else 1)


@app.command()
def smoke(
    url: Url = None,
    directory: Annotated[Path | None, typer.Option("--out", help="keep the run here")] = None,
    seconds: Annotated[float, typer.Option(min=4, max=600, help="of load")] = 16,
    slo: Slo = "p95=500ms",
) -> None:
    """Twenty seconds: two step counts, alone and four at a time. Without --url it starts a server
    of its own, with the bundled checkpoint. Exit code 1 if any request failed.
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
    with told_plainly(), tempfile.TemporaryDirectory() as temporary:
        path = directory or Path(temporary) / "smoke"
        if Folder(path).header() is not None:
            raise Refusal(f"{path} holds a run already; a smoke test is always a new one")
        with server_of(url, None if url else "stories") as base:
            asyncio.run(measure(base, plan, Folder(path), Quality(12, 16), None, None, 300, out))
        finish(read(Folder(path), cli_types.objective(slo)), path, written=directory is not None)
        ended = [r.failure is None for cell in Folder(path).cells() for r in cell.records]
    ok, failed = ended.count(True), ended.count(False)
    print(f"{ok} ok, {failed} failed")
    raise typer.Exit(1 if failed or not ok else 0)


def finish(run: Run, directory: Path, pictures: Path | None = None, written: bool = True) -> None:
    """Show the table and the answer, and write the report."""
    whole = reports.load_table(run)
    table = Table(box=None, header_style="bold")
    kept = [whole.head.index(name) for name in reports.IN_TERMINAL]
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
