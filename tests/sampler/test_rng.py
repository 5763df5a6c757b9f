"""The counter-based generator."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2

from sampler.philox import Role, integers, philox, uniforms

MASK = 2**32 - 1


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
def test_numbers_on_a_cpu_are_those_of_tensor_operations(seed: int, step: int) -> None:
    position = torch.tensor([0, 1, 63, 2**20, 2**31, 2**40])
    for role in Role:
        one, other = uniforms(torch.tensor(seed), torch.tensor(step), position, role)
        words = philox(
            (position & MASK, torch.tensor(step & MASK), torch.tensor(int(role)), position >> 32),
            (torch.tensor(seed & MASK), torch.tensor((seed >> 32) & MASK)),
        )
        for u, (high, low) in ((one, words[:2]), (other, words[2:])):
            assert u.tolist() == [
                (h * 2**21 + low_ // 2**11) / 2**53
                for h, low_ in zip(high.tolist(), low.tolist(), strict=True)
            ]


def test_numbers_of_several_roles_are_those_of_each_and_shapes_broadcast() -> None:
    seed, position = torch.tensor([[3], [4], [5]]), torch.arange(7)
    together = uniforms(seed, torch.tensor(2), position, Role.TOKEN, Role.PRIOR)
    alone = [
        *uniforms(seed, torch.tensor(2), position, Role.TOKEN),
        *uniforms(seed, torch.tensor(2), position, Role.PRIOR),
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (3, 7) and torch.equal(one, other)
    (row, _) = uniforms(torch.tensor(4), torch.tensor(2), position, Role.TOKEN)
    assert torch.equal(together[0][1], row)
