"""The Typer application of ``xdlm``: one command for each module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.checkpoints import convert, info, make_random
from server.cli.cluster import cluster
from server.cli.draw import draw
from server.cli.examples import examples_of
from server.cli.generate import generate
from server.cli.hub import list_cached, pull, remove
from server.cli.sampling_flags import with_sampling_flags
from server.cli.score import score
from server.cli.serve import serve
from server.cli.version import version_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve, watch and inspect discrete-diffusion language models.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version_line())
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


app.command(epilog=examples_of("serve"))(serve)
app.command(epilog=examples_of("cluster"))(cluster)
app.command(epilog=examples_of("generate"))(with_sampling_flags(generate))
app.command(epilog=examples_of("score"))(score)
app.command(epilog=examples_of("draw"))(with_sampling_flags(draw, without=("seed",)))
app.command(epilog=examples_of("pull"))(pull)
app.command("list", epilog=examples_of("list"))(list_cached)
app.command("rm", epilog=examples_of("rm"))(remove)
app.command(epilog=examples_of("info"))(info)
app.command(epilog=examples_of("make-random"))(make_random)
app.command(epilog=examples_of("convert"))(convert)
