"""A further family is one module and one entry of the registry; everything else follows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from tests.support.paths import ROOT

MODULE = '''
"""Sees each token and the mean of its canvas."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import DenoiserModule
from models.family import FamilySpec


@dataclass(frozen=True)
class ToyConfig:
    """Sizes of the toy."""

    vocab_size: int
    width: int
    mask_token_id: int
    eos_token_id: int


class Toy(DenoiserModule):
    """The toy."""

    max_length = 64

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.toy_table = nn.Embedding(config.vocab_size, config.width)
        self.toy_head = nn.Linear(config.width, config.vocab_size, bias=False)

    def trunk(self, tokens: Tensor, offsets: Tensor, rows=None, labels=None) -> Tensor:
        h = self.toy_table(tokens)
        sizes = offsets.diff()
        canvas = torch.repeat_interleave(sizes, output_size=len(tokens))
        mean = torch.zeros(len(sizes), h.shape[1]).index_add(0, canvas, h) / sizes[:, None]
        mixed = h + mean[canvas]
        return mixed if rows is None else mixed[rows]

    def head(self, hidden: Tensor) -> Tensor:
        return self.toy_head(hidden)


def read(raw, shapes):
    return ToyConfig(*(raw[name] for name in ToyConfig.__dataclass_fields__))


FAMILY = FamilySpec(
    name="toy",
    title="toy",
    matches=lambda config: config.get("model_type") == "toy",
    read_config=read,
    build=Toy,
    sign=frozenset({"toy_table.weight"}),
    defaults={"sampler": "topk"},
    shapes={"tiny": {}, "small-toy": {"width": 24}},
)
'''
ENTRY = '    "toy": toy.FAMILY,\n'
PROGRAM = """
import json, sys
from fastapi.testclient import TestClient
from typer.testing import CliRunner
from models.checkpoints.convert import convert
from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.registry import family_of_tensors
from pathlib import Path
from server.api.app import create_app
from server.cli.app import app as cli
from server.config import Settings
from server.engine.factory import engine_of

made = CliRunner().invoke(cli, ["make-random", "made", *sys.argv[1:]])
assert made.exit_code == 0, made.output
_, defaults = inspect_checkpoint(Path("made"))
convert(Path("made"), Path("converted"))
settings = Settings.read({})
app = create_app([engine_of(load_checkpoint(Path("converted")), settings)], settings)
with TestClient(app, base_url="http://127.0.0.1") as client:
    body = {"prompt": "Once", "max_tokens": 8, "steps": 4, "seed": 1}
    print(json.dumps({
        "defaults": defaults,
        "of_tensors": family_of_tensors({"toy_table.weight"}).name,
        "help": CliRunner().invoke(cli, ["make-random", "--help"], env={"COLUMNS": "200"}).output,
        "models": client.get("/v1/models").json(),
        "answer": client.post("/v1/completions", json=body).json(),
    }))
"""


def test_a_family_added_to_the_registry_is_made_converted_loaded_and_served(tmp_path):
    shutil.copytree(
        ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("bundled", "*.pyc")
    )
    (tmp_path / "models" / "bundled").symlink_to(ROOT / "models" / "bundled")
    for package in ("server", "sampler", "fusion"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "models" / "families" / "toy.py").write_text(MODULE)
    registry = tmp_path / "models" / "registry.py"
    line = "from models.family import"
    text = registry.read_text().replace(line, f"from models.families import toy\n{line}", 1)
    registry.write_text(text.replace('}\n"""A further', ENTRY + '}\n"""A further', 1))
    stories = ROOT / "models" / "bundled" / "stories"
    size = json.loads((stories / "config.json").read_text())["vocab_size"]
    fields = f"small-toy,vocab_size={size},mask_token_id={size - 1},eos_token_id=0"
    flags = ["--family", "toy", "--shape", fields, "--tokenizer", "stories"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["defaults"]["sampler"] == "ancestral" and found["of_tensors"] == "toy"
    assert "small-toy (toy)" in found["help"] and " or toy" in found["help"]
    (model,) = found["models"]["data"]
    assert model["id"] == "converted" and model["diffusion"]["family"] == "toy"
    assert found["answer"]["model"] == "converted"
    assert found["answer"]["usage"]["completion_tokens"] == 8
