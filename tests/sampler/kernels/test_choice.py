"""The choice between the sampler's kernels and PyTorch's operations, without Triton."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import pytest
import torch

from sampler.step import take_steps
from tests.sampler.kernels.test_launches import zeros
from tests.sampler.test_graphs import batch_of
from tests.sampler.toy import Mixing
from tests.support.kernels import Launches, on_cpu


def broken(*args: object, **options: object) -> None:
    raise RuntimeError("no C compiler was found")


@pytest.mark.parametrize("run", [zeros, broken])
def test_kernels_that_give_something_else_or_fail_are_logged_once_and_not_used(
    monkeypatch, caplog, run
):
    network = Mixing(96)
    sampler, batch = batch_of("topk", random.Random(1), [(3, 8), (0, 16)])
    expected = [batch]
    for _ in range(3):
        (taken,) = take_steps(network, [(sampler, expected[-1])])
        expected.append(taken.batch)
    kernels = Launches(run)
    on_cpu(monkeypatch, kernels)
    with caplog.at_level(logging.WARNING):
        for before, after in pairwise(expected):
            (again,) = take_steps(network, [(sampler, before)])
            assert torch.equal(again.batch.tokens, after.tokens)
    said = sorted(record.getMessage().split()[1] for record in caplog.records)
    assert said == sorted(set(kernels.names)) == ["marked", "places", "read_rows", "uniforms"]
    assert len(kernels.names) < 20  # compared once for each type and question, and then left
