"""Help of the commands: defaults, and examples that the commands accept."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from sampler import PARAMS
from server.cli.app import app
from server.cli.examples import EXAMPLES
from server.cluster.settings import ClusterSettings
from server.config import Settings

COMMANDS = typer.main.get_group(app).commands
WIDE = {"COLUMNS": "400", "NO_COLOR": "1"}


def help_of(name: str) -> str:
    return CliRunner().invoke(app, [name, "--help"], env=WIDE).output


def line_of(shown: str, flag: str) -> str:
    """The line of a flag in a help text."""
    (line,) = re.findall(rf"^│ +{re.escape(flag)} .*$", shown, re.MULTILINE)
    return line


def test_every_command_has_examples():
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_ends_with_examples_that_parse(name: str) -> None:
    shown = help_of(name)
    for line in EXAMPLES[name]:
        assert line in shown
        program, called, *rest = shlex.split(line)
        assert (program, called) == ("xdlm", name)
        COMMANDS[name].make_context(name, rest)


@pytest.mark.parametrize(("name", "settings"), [("serve", Settings), ("cluster", ClusterSettings)])
def test_help_of_a_setting_s_flag_shows_the_setting_s_default(name, settings):
    shown, seen = help_of(name), 0
    for flag in COMMANDS[name].params:
        field = settings.model_fields.get(flag.name or "")
        if field is None or not isinstance(field.default, str | int | float):
            continue
        if isinstance(field.default, bool) or field.default == "":
            continue
        line = line_of(shown, flag.opts[0])
        assert f"[default: ({field.default})]" in line, line
        seen += 1
    assert seen >= 7
    assert "[default: (stories)]" in line_of(shown, "checkpoints...")


@pytest.mark.parametrize("name", ["generate", "draw"])
def test_help_of_a_parameter_s_flag_shows_what_a_checkpoint_may_replace(name):
    shown = help_of(name)
    for parameter, flag in (("steps", "--steps"), ("post_steps", "--post-steps")):
        default = PARAMS[parameter].default
        assert f"[default: (the checkpoint's, or {default})]" in line_of(shown, flag)
    assert "[default: (the checkpoint's, or ancestral)]" in line_of(shown, "--sampler")


def test_help_shows_brackets_as_they_are_typed():
    for name in ("serve", "generate", "info"):
        assert "ORG/NAME[@REVISION] on the hub" in help_of(name)
