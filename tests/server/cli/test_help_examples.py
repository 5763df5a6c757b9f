"""The examples in the help of commands are command lines that the commands accept."""

from __future__ import annotations

import shlex

import pytest
import typer
from typer.testing import CliRunner

from server.cli.app import app
from server.cli.examples import EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_of_a_command_ends_with_examples_that_parse(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    command = typer.main.get_group(app).commands[name]
    for line in EXAMPLES[name]:
        assert line in shown
        program, called, *rest = shlex.split(line)
        assert (program, called) == ("xdlm", name)
        command.make_context(name, rest)
