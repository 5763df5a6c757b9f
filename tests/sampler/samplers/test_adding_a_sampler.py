"""A further sampler is one module and one line of the registry; everything else follows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

MODULE = '''
"""Fills all masks at once, whatever the bias says."""

from dataclasses import dataclass

from sampler.params import number, param
from sampler.samplers.threshold import Threshold, ThresholdParams


@dataclass(frozen=True)
class ToyParams(ThresholdParams):
    """Parameters of the toy."""

    toy_bias: float = param(number(0.25, "what the toy leans to", 0, 1, label="Toy bias"))


class Toy(Threshold):
    """The toy."""
'''
LINE = '    "toy": SamplerSpec(toy.Toy, toy.ToyParams, settles_early=True),\n'
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from models.checkpoints.load import find_checkpoint, load_checkpoint
from server.api.app import create_app
from server.api.context import State
from server.api.openapi import document
from server.api.routes.models import describe
from server.cli.app import app as cli
from server.config import Settings
from server.engine.factory import engine_of

settings = Settings.read({})
engine = engine_of(load_checkpoint(find_checkpoint("stories")), settings)
app = create_app([engine], settings)
facts = describe(app.state.xdlm)["diffusion"]
schemas = document(app, app.state.xdlm)["components"]["schemas"]
run = CliRunner().invoke(cli, sys.argv[1:])
print(json.dumps({
    "samplers": facts["samplers"],
    "page": [p for p in facts["request_parameters"] if p["name"] == "toy_bias"],
    "openapi": [n for n, s in schemas.items() if "toy_bias" in s.get("properties", {})],
    "help": CliRunner().invoke(cli, ["generate", "--help"], env={"COLUMNS": "200"}).output,
    "output": run.stdout,
    "code": run.exit_code,
}))
"""


@pytest.mark.slow
def test_a_sampler_added_to_the_registry_reaches_api_cli_openapi_and_page(tmp_path):
    shutil.copytree(ROOT / "sampler", tmp_path / "sampler")
    for package in ("server", "models", "fusion"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "sampler" / "samplers" / "toy.py").write_text(MODULE)
    registry = tmp_path / "sampler" / "registry.py"
    text = registry.read_text().replace("threshold, topk\n", "threshold, topk, toy\n", 1)
    text = text.replace('    "remdm": SamplerSpec(', LINE + '    "remdm": SamplerSpec(')
    registry.write_text(text)
    flags = ["--sampler", "toy", "--toy-bias", "0.5", "--steps", "3", "--max-tokens", "8"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "generate", "Once", "--json", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "toy" in found["samplers"]
    assert found["page"][0]["label"] == "Toy bias" and found["page"][0]["samplers"] == ["toy"]
    assert {"CompletionBody", "ChatBody", "TrajectoryBody"} <= set(found["openapi"])
    assert "--toy-bias" in found["help"] and "what the toy leans to" in found["help"]
    assert found["code"] == 0 and json.loads(found["output"])["tokens"] == 8
