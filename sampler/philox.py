"""Counter-based random numbers: a value is a pure function of (seed, step, position, role).

Philox 4x32-10 (Salmon et al., SC 2011) in integer tensor operations. A request's draws do not
depend on its neighbours in the batch, on the order of evaluation or on the device.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fusion.choice import Draw, Pairs, agrees, launch, ordinary
from sampler.transfer import to_device

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
SPAN = 256
"""Positions whose numbers a program makes."""


class Role(IntEnum):
    """The purpose of a random number. Each role has two independent uniforms."""

    BRANCH = 0  # leave or stay; where to
    TOKEN = 1  # the categorical draw; the uniform token, or which masks are filled first
    PRIOR = 2  # mask or token; the uniform token
    NOISE = 4  # scores: keep, mask or noise; the uniform token
    TIME = 5  # scores: where the times of a set of samples begin
    JOINT = 6  # texts of a language: the class of a token; the token in it


@cache
def constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The multipliers [2] and what each round's key has grown by [ROUNDS, 2]."""
    rounds = torch.arange(ROUNDS, device=device)[:, None]
    multipliers, weyl = (to_device(torch.tensor(x), device) for x in (_MULTIPLIERS, _WEYL))
    return multipliers, rounds * weyl


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four counter words and two key words, each 32 bits in int64, broadcastable.

    The two halves of a round are one array: what a short canvas costs is the number of operations.

    Returns:
        four words of 32 random bits, in int64.
    """
    c0, c1, c2, c3, k0, k1 = torch.broadcast_tensors(*counter, *key)
    multipliers, growth = (x.view(*x.shape, *[1] * c0.dim()) for x in constants(c0.device))
    multiplied, kept = torch.stack((c0, c2)), torch.stack((c1, c3))
    for round_key in (torch.stack((k0, k1)) + growth) & _MASK32:
        product = multiplied * multipliers  # wraps as two's complement; the bits are right
        multiplied = ((product >> 32) & _MASK32).flip(0) ^ kept ^ round_key
        kept = (product & _MASK32).flip(0)
    return multiplied[0], kept[0], multiplied[1], kept[1]


def _unit(high: Tensor, low: Tensor) -> Tensor:
    """53 of 64 random bits as a float64 in [0, 1)."""
    return ((high << 21) | (low >> 11)).double() * 2.0**-53


def uniforms(seed: Tensor, step: Tensor, position: Tensor, *roles: Role) -> tuple[Tensor, ...]:
    """Two independent uniforms in [0, 1) for each role, float64.

    Args:
        seed: int64, all 64 bits count.
        step: denoising step, >= 0.
        position: position in the request's own canvas.
            The three broadcast together; each result has their common shape.
        roles: what they are for.
    """
    columns = (seed, step, position)
    alike = ordinary(*columns) and all(c.dim() == 1 and len(c) == len(position) for c in columns)
    compare = partial(_compare, roles)
    if alike and agrees("uniforms", position, roles, compare, frozenset({torch.int64})):
        return _kernel(seed, step, position, roles)
    return _plain(seed, step, position, roles)


def _plain(
    seed: Tensor, step: Tensor, position: Tensor, roles: tuple[Role, ...]
) -> tuple[Tensor, ...]:
    role = torch.stack([torch.full_like(position, int(role)) for role in roles])
    words = philox(
        (position & _MASK32, step & _MASK32, role, position >> 32),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    pairs = (_unit(words[0], words[1]), _unit(words[2], words[3]))
    return tuple(u for of_role in zip(*pairs, strict=True) for u in of_role)


def _kernel(
    seed: Tensor, step: Tensor, position: Tensor, roles: tuple[Role, ...]
) -> tuple[Tensor, ...]:
    count = len(position)
    out = position.new_empty(2 * len(roles), count, dtype=torch.float64)
    launch(
        "uniforms",
        (-(-count // SPAN), len(roles)),
        position.device,
        *(column.contiguous() for column in (seed, step, position)),
        out,
        count,
        ROLES=sum(role << 8 * n for n, role in enumerate(roles)),
        ROUNDS=ROUNDS,
        SPAN=SPAN,
        num_warps=4,
    )
    return out.unbind(0)


def _compare(roles: tuple[Role, ...], draw: Draw) -> Pairs:
    """The bits of numbers of seeds of either sign, some of them more than 32 bits long."""
    wide = draw(3, SPAN + 3, dtype=torch.float32).mul(2.0**40).long()
    seed, step, position = wide[0] * 8191, wide[1].abs() >> 28, wide[2].abs() >> 20
    pairs = zip(*(f(seed, step, position, roles) for f in (_kernel, _plain)), strict=True)
    return [(found.view(torch.int64), expected.view(torch.int64)) for found, expected in pairs]


def uniforms_on_host(
    seed: int, step: int, position: Int[np.ndarray, " N"], role: Role
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """The same numbers of one role for positions of one canvas, in a third of the time."""
    c0, c2 = position & _MASK32, np.full_like(position, int(role))
    c1, c3 = np.full_like(position, step & _MASK32), position >> 32
    k0, k1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(ROUNDS):
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps; the bits are right
        c0, c2 = (high >> 32) & _MASK32 ^ c1 ^ k0, (low >> 32) & _MASK32 ^ c3 ^ k1
        c1, c3 = high & _MASK32, low & _MASK32
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    pairs = ((c0 << 21) | (c1 >> 11), (c2 << 21) | (c3 >> 11))
    one, other = (bits.astype(np.float64) * 2.0**-53 for bits in pairs)
    return one, other


def integers(u: Tensor, n: int) -> Tensor:
    """Uniform integers in 0..n-1 from uniforms in [0, 1)."""
    return (u * n).long().clamp_(max=n - 1)
