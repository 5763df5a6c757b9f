"""Kernels that the sampler's part of a step launches on CUDA, counted on a CPU with stand-ins."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch

from fusion import choice
from sampler.proposed import Proposed
from sampler.room import Room
from sampler.step import take
from tests.sampler.test_static_step import LAYOUTS, POSITIONS, batch_of
from tests.sampler.toy import Mixing
from tests.support.kernels import Launches, Operations, on_cpu

RESULTS = {"uniforms": (3,), "marked": (1,), "places": (2, 3), "read_rows": range(8, 14)}
"""Which arguments a kernel writes."""


def zeros(name: str, *args: Any, **options: Any) -> None:
    """In place of a kernel's results; no operation of PyTorch."""
    for at in RESULTS[name]:
        args[at].numpy().fill(0)


def launched(kind: str, kernels: Launches) -> Counter[str]:
    """Operations of a step in fixed shapes: proposed, read and written; the network's head is one
    of them, its trunk none.
    """
    sampler, batch = batch_of(kind, random.Random(1), LAYOUTS[0])
    plan = sampler.plan(batch)
    room = Room.bound(batch.layout, plan.asks, POSITIONS)
    network, hidden = Mixing(96), torch.randn(room.asked, 16)
    with torch.inference_mode(), Operations() as operations:
        kernels.names.clear()
        proposed = Proposed.of(sampler, batch.layout, plan.now, batch.tokens)
        take(network, [proposed], [room], run=lambda rows: hidden)
    return operations.names + Counter(kernels.names)


@pytest.mark.parametrize(
    ("kind", "of_kernels"),
    [
        ("ancestral", {"uniforms": 1, "marked": 1, "read_rows": 1}),
        ("topk", {"uniforms": 1, "marked": 1, "read_rows": 1, "places": 1}),
        ("threshold", {"uniforms": 1, "marked": 1, "read_rows": 1, "places": 1}),
        ("dream", {"uniforms": 1, "marked": 1, "read_rows": 1, "places": 1}),
        ("ancestral told", {"uniforms": 1, "marked": 1}),
        ("topk nucleus and bias", {"uniforms": 1, "marked": 1, "places": 1}),
    ],
)
def test_a_step_launches_its_kernels(monkeypatch, kind, of_kernels):
    kernels = Launches(zeros)
    before = launched(kind, kernels)
    assert not kernels.names
    on_cpu(monkeypatch, kernels)
    monkeypatch.setattr(choice, "_compared", lambda *_: True)
    after = launched(kind, kernels)
    assert Counter(kernels.names) == of_kernels
    assert before.total() - after.total() >= 100
    print(kind, before.total(), after.total())
    if "read_rows" in of_kernels:
        assert before.total() > 190 and after.total() < 65
