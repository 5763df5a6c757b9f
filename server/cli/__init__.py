"""The command line: each command builds its components. Shared options are in ``common``."""

from __future__ import annotations

import server.cli.openmp  # noqa: F401

# isort: split
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from models.checkpoints.malloc import keep_freed_memory
from server.cli.checkpoints import convert, info, make_random
from server.cli.cluster import cluster
from server.cli.common import say
from server.cli.draw import draw
from server.cli.generate import generate
from server.cli.hub import list_cached, pull, remove
from server.cli.sampling_flags import with_sampling_flags
from server.cli.score import score
from server.cli.serve import listening, serve

__all__ = ["app", "listening", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve, watch and inspect discrete-diffusion language models.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"xdlm-serve {version('xdlm-serve')}")
        raise typer.Exit


@app.callback()
def xdlm(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    """Options that come before a command's name."""


app.command()(serve)
app.command()(cluster)
app.command()(with_sampling_flags(generate))
app.command()(score)
app.command()(with_sampling_flags(draw, without=("seed",)))
app.command()(pull)
app.command("list")(list_cached)
app.command("rm")(remove)
app.command()(info)
app.command()(make_random)
app.command()(convert)


def main() -> None:
    """Entry point of the ``xdlm`` console script. Errors of a command line are one line."""
    keep_freed_memory()
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 1
    except typer.TyperException as error:
        code = getattr(error, "exit_code", 2)
        message = str(getattr(error, "format_message", error.__str__)())
        if len(sys.argv) > 1:
            say(" ".join(message.split()))
        else:
            print(message, file=sys.stderr)  # the help
    sys.exit(code)
