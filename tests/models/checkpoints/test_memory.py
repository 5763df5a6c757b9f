"""Memory that a network needs by its headers, against what it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from models.checkpoints.load import inspect_whole, load_network
from models.checkpoints.memory import available_memory
from models.checkpoints.random_init import parse_shape, write_random
from tests.support.memory import rss

LOADING = """
import sys
from pathlib import Path
from models.checkpoints.load import inspect_whole, load_checkpoint
from models.checkpoints.malloc import keep_freed_memory
keep_freed_memory()
folder = Path(sys.argv[1])
print(inspect_whole(folder).needs.weights(4), flush=True)
sys.stdin.readline()
loaded = load_checkpoint(folder, "cpu", "float32")
print("loaded", flush=True)
sys.stdin.readline()
"""
SHAPE = "max_sequence_length=1024,vocab_size=16000,mask_token_id=15999,eos_token_id=1,"
SMALL = "d_model=2048,n_layers=2,n_heads=16,n_kv_heads=16,mlp_hidden_size=5632"
BILLION = "d_model=2048,n_layers=16,n_heads=16,n_kv_heads=16,mlp_hidden_size=5632"


def loading(folder: Path) -> tuple[int, int, int]:
    """Bytes of the weights as computed, and anonymous bytes that a process took to load them: at
    the peak, and afterwards.
    """
    with subprocess.Popen(
        [sys.executable, "-c", LOADING, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        computed = int(process.stdout.readline())
        before = peak = rss(process.pid)
        told: list[str] = []
        reader = threading.Thread(
            target=lambda out: told.append(out.readline()), args=(process.stdout,)
        )
        reader.start()
        process.stdin.write("\n")
        process.stdin.flush()
        while reader.is_alive():
            peak = max(peak, rss(process.pid))
            time.sleep(0.001)
        assert told == ["loaded\n"]
        after = rss(process.pid)
        process.communicate("\n")
    return computed, peak - before, after - before


@pytest.mark.parametrize(
    "shape", [SMALL, pytest.param(BILLION, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))]
)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_loading_takes_the_computed_memory_at_its_peak_and_afterwards(tmp_path, shape, stored):
    """Large layers are packed one by one, and neither their originals nor holes are left. Small
    weights that are stored in fp32 stay pages of their file, which do not count.
    """
    write_random(tmp_path / "m", parse_shape(SHAPE + shape), dtype=stored)
    computed, peak, after = loading(tmp_path / "m")
    assert computed > (3.8e9 if shape == BILLION else 0.5e9)
    assert 0.95 < after / computed < 1.05, (computed, after)
    assert 0.95 < peak / computed < 1.05, (computed, peak)


@pytest.mark.parametrize("family", ["llada", "llada_moe", "dream", "dit"])
def test_weights_by_headers_are_those_that_are_loaded(tmp_path, family):
    shape = parse_shape("tiny", family, None)
    write_random(tmp_path / "m", shape, family=family, seed=0, dtype=torch.float32)
    needs = inspect_whole(tmp_path / "m").needs
    network = load_network(tmp_path / "m", "cpu", "float32")  # packed weights have no sizes
    loaded = sum(t.nbytes for t in network.state_dict().values())
    folded = family == "dit"  # its conditions become constants once they are loaded
    assert needs.weights(4) > loaded if folded else needs.weights(4) == loaded
    assert needs.weights(2) == needs.weights(4) // 2 + needs.wide * 2
    assert 0 < needs.width <= needs.inner and needs.positions(10, 2) > 0


def test_a_machine_has_no_more_than_its_memory():
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory(torch.device("cpu")) <= has
