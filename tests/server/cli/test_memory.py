"""Models that the device has no memory for are refused before anything is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from models.checkpoints.memory import Needs
from models.checkpoints.meta_init import without_values
from models.families.llada import LLaDA, LLaDAConfig
from models.families.llada_config import SHAPES
from models.interface import ModelInfo
from server.cli.memory import check_memory
from server.config import Settings
from tests.support.processes import xdlm
from tests.support.serving import write_tiny


def holes(folder: Path, layers: int) -> int:
    """A LLaDA of 8B's layers with headers and no values, which takes no room; bytes of the weights
    that it would have.
    """
    shape = {"model_type": "llada", **SHAPES["llada-8b"], "n_layers": layers}
    with without_values():
        network = LLaDA(LLaDAConfig.from_dict(shape))
    header, at = {}, 0
    for name, tensor in network.stored().items():
        place = [at, at + 4 * tensor.numel()]
        header[name] = {"dtype": "F32", "shape": [*tensor.shape], "data_offsets": place}
        at = place[1]
    (folder / "config.json").write_text(json.dumps(shape))
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + at)
    return at


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(tmp_path):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = holes(tmp_path, layers=2 + machine // 800_000_000)  # a layer has 874 MB
    assert size > machine
    how = ("--device", "cpu", "--dtype", "float32", "--port", "0")
    done = xdlm("serve", str(tmp_path), *how)
    assert done.returncode == 1 and not done.stdout, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"{size / 1e9:.2f} GB of weights" in line and "cpu has" in line
    assert "--force-memory" in line
    told = json.loads(xdlm("info", str(tmp_path), "--json").stdout)["memory"]
    embedding = SHAPES["llada-8b"]["vocab_size"] * SHAPES["llada-8b"]["d_model"]
    # in bfloat16: the embedding, and with float8 the head
    eight = {"float8": size // 4 + 2 * embedding, "int8": size // 4 + embedding}
    assert told["weights"] == {"float32": size, "bfloat16": size // 2, **eight}


def test_a_canvas_longer_than_a_step_counts_as_a_step():
    """Published Dream says 131,072 positions, which no step has."""
    needs = Needs(narrow=1000, wide=0, width=3584, inner=18944, vocab_size=152064)
    info = ModelInfo("long", "dream", 1000, 152064, 1, 2, 1 << 40, "float32")
    check_memory([(info, needs)], Settings.model_validate({"device": "cpu"}))


@pytest.mark.parametrize("positions", [10**12, 2**53])
def test_a_cache_that_the_machine_has_no_room_for_is_one_line_before_the_server_listens(
    tmp_path, positions
):
    folder = write_tiny(tmp_path / "tiny")
    how = ("--device", "cpu", "--cache-positions", str(positions), "--port", "0")
    done = xdlm("serve", str(folder), *how)
    assert done.returncode == 1 and not done.stdout, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("xdlm: tiny: cpu has no room for") and f"is {positions}" in line
