"""The counter-based generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from sampler.philox import Role, integers, philox, uniforms, uniforms_on_host


def words(values):
    return tuple(torch.tensor(v) for v in values)


def test_philox_known_answers():
    """Known-answer vectors of Random123, philox4x32-10."""
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        k0, k1 = words(key)
        assert tuple(int(w) for w in philox(words(counter), (k0, k1))) == expected


def test_streams_are_uniform_and_unrelated():
    """Chi-square over 256 cells of pairs from neighbouring keys; false alarm 1e-6 each, 10
    tests.
    """
    position = torch.arange(100_000)
    base = uniforms(torch.tensor(7), torch.tensor(3), position, Role.BRANCH)
    others = [
        base[1],
        uniforms(torch.tensor(8), torch.tensor(3), position, Role.BRANCH)[0],
        uniforms(torch.tensor(7), torch.tensor(4), position, Role.BRANCH)[0],
        uniforms(torch.tensor(7), torch.tensor(3), position + 1, Role.BRANCH)[0],
        uniforms(torch.tensor(7), torch.tensor(3), position, Role.TOKEN)[0],
        uniforms(torch.tensor(7 + 2**32), torch.tensor(3), position, Role.BRANCH)[0],
    ]
    for other in others:
        cell = integers(base[0], 16) * 16 + integers(other, 16)
        counts = torch.bincount(cell, minlength=256).double()
        expected = len(position) / 256
        assert chi2.sf(float(((counts - expected) ** 2 / expected).sum()), 255) > 1e-6


def test_range_and_negative_seeds():
    u, v = uniforms(torch.tensor(-(2**63)), torch.tensor(0), torch.arange(1000), Role.PRIOR)
    for x in (u, v):
        assert ((x >= 0) & (x < 1)).all()
    assert integers(torch.tensor([0.0, 1 - 2**-53]).double(), 50_258).tolist() == [0, 50_257]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("step", [0, 7, 2**33])
def test_numbers_on_the_host_are_the_same(seed: int, step: int) -> None:
    position = torch.tensor([0, 1, 63, 2**20, 2**31, 2**40])
    for role in Role:
        here = uniforms_on_host(seed, step, position.numpy(), role)
        there = uniforms(torch.tensor(seed), torch.tensor(step), position, role)
        for one, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(one, other.numpy())
