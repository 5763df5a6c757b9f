"""Counter-based random numbers: a value is a pure function of (seed, step, position, role).

Philox 4x32-10 (Salmon et al., SC 2011) in integer tensor operations. A request's draws do not
depend on its neighbours in the batch, on the order of evaluation or on the device.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


class Role(IntEnum):
    """What a random number is for. Each role has two independent uniforms."""

    BRANCH = 0  # leave or stay; where to
    TOKEN = 1  # the categorical draw; the uniform token
    PRIOR = 2  # mask or token; the uniform token
    ORDER = 3  # which masks are filled first
    NOISE = 4  # scores: keep, mask or noise; the uniform token
    TIME = 5  # scores: where the times of a set of samples begin


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low halves of the 64-bit product of 32-bit numbers held in int64."""
    product = a * b  # wraps as two's complement; the bits are right
    return (product >> 32) & _MASK32, product & _MASK32


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four counter words and two key words, each 32 bits in int64, broadcastable.

    Returns:
        four words of 32 random bits, in int64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3


def _unit(high: Tensor, low: Tensor) -> Tensor:
    """53 of 64 random bits as a float64 in [0, 1)."""
    return ((high << 21) | (low >> 11)).double() * 2.0**-53


def uniforms(seed: Tensor, step: Tensor, position: Tensor, role: Role) -> tuple[Tensor, Tensor]:
    """Two independent uniforms in [0, 1), float64.

    Args:
        seed: int64, all 64 bits count.
        step: denoising step, >= 0.
        position: position in the request's own canvas.
            The three broadcast together; the result has their common shape.
    """
    words = philox(
        (position & _MASK32, step & _MASK32, torch.full_like(position, int(role)), position >> 32),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    return _unit(words[0], words[1]), _unit(words[2], words[3])


def integers(u: Tensor, n: int) -> Tensor:
    """Uniform integers in 0..n-1 from uniforms in [0, 1)."""
    return (u * n).long().clamp_(max=n - 1)
