"""Memory that a network needs by its headers, against what it takes."""

from __future__ import annotations

import os

import pytest
import torch

from models.checkpoints.load import inspect_whole, load_checkpoint
from models.checkpoints.memory import available_memory
from models.checkpoints.random_init import parse_shape, write_random


@pytest.mark.parametrize("family", ["llada", "llada_moe", "dream", "dit"])
def test_weights_by_headers_are_those_that_are_loaded(tmp_path, family):
    shape = parse_shape("tiny", family, None)
    write_random(tmp_path / "m", shape, family=family, seed=0, dtype=torch.float32)
    needs = inspect_whole(tmp_path / "m").needs
    network = load_checkpoint(tmp_path / "m", "cpu", "float32").model
    assert isinstance(network, torch.nn.Module)
    loaded = sum(t.nbytes for t in network.state_dict().values())
    folded = family == "dit"  # its conditions become constants once they are loaded
    assert needs.weights(4) > loaded if folded else needs.weights(4) == loaded
    assert needs.weights(2) == needs.weights(4) // 2 + needs.wide * 2
    assert 0 < needs.width <= needs.inner and needs.positions(10, 2) > 0


def test_a_machine_has_no_more_than_its_memory():
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory(torch.device("cpu")) <= has
