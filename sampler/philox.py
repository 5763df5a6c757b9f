"""Counter-based random numbers: a value is a pure function of (seed, step, position, role).

Philox 4x32-10 (Salmon et al., SC 2011) in integer tensor operations. A request's draws do not
depend on its neighbours in the batch, on the order of evaluation or on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sampler.transfer import to_device

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_FACTORS = np.array(_MULTIPLIERS, dtype=np.int64)
_GROWTH = np.arange(ROUNDS)[:, None] * np.array(_WEYL, dtype=np.int64)
UNIT = 2.0**-53
"""Between neighbours among the uniforms, which have 53 random bits."""


ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)


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

    Returns:
        four words of 32 random bits, in int64.
    """
    c0, c1, c2, c3, k0, k1 = torch.broadcast_tensors(*counter, *key)
    multipliers, growth = (x.view(*x.shape, *[1] * c0.dim()) for x in constants(c0.device))
    keys = (torch.stack((k0, k1)) + growth) & _MASK32
    halves = torch.stack((c0, c2)), torch.stack((c1, c3))
    multiplied, kept = _rounds(*halves, keys, multipliers, lambda x: x.flip(0))
    return multiplied[0], kept[0], multiplied[1], kept[1]


def _rounds(
    multiplied: ArrayT,
    kept: ArrayT,
    keys: Iterable[Any],
    multipliers: Any,
    swapped: Callable[[Any], Any],
) -> tuple[ArrayT, ArrayT]:
    """The rounds of Philox. The two halves of one are one array: what a short canvas costs is the
    number of operations.

    Args:
        multiplied: words 0 and 2, [2, ...].
        kept: words 1 and 3.
        keys: of each round, [2, ...].
        multipliers: of the halves, [2, 1, ...].
        swapped: the halves in the other order.
    """
    for key in keys:
        product: Any = multiplied * multipliers  # wraps as two's complement; the bits are right
        multiplied = swapped((product >> 32) & _MASK32) ^ kept ^ key
        kept = swapped(product & _MASK32)
    return multiplied, kept


def uniforms(seed: Tensor, step: Tensor, position: Tensor, *roles: Role) -> tuple[Tensor, ...]:
    """Two independent uniforms in [0, 1) for each role, float64.

    Args:
        seed: int64, all 64 bits count.
        step: denoising step, >= 0.
        position: position in the request's own canvas.
            The three broadcast together; each result has their common shape.
        roles: what they are for.
    """
    return _uniforms(*torch.broadcast_tensors(seed, step, position), list(roles)).unbind()


@torch.library.custom_op("xdlm::uniforms", mutates_args=())
def _uniforms(seed: Tensor, step: Tensor, position: Tensor, roles: Sequence[int]) -> Tensor:
    """``uniforms`` as one operation, [2 * roles, ...]."""
    role = torch.stack([torch.full_like(position, role) for role in roles])
    counter = (position & _MASK32, step & _MASK32, role, position >> 32)
    w0, w1, w2, w3 = philox(counter, (seed & _MASK32, (seed >> 32) & _MASK32))
    bits = torch.stack(((w0 << 21) | (w1 >> 11), (w2 << 21) | (w3 >> 11)), dim=1)
    return bits.flatten(0, 1).double() * UNIT


@_uniforms.register_kernel("cpu")
def _uniforms_on_host(seed: Tensor, step: Tensor, position: Tensor, roles: Sequence[int]) -> Tensor:
    """The same numbers, by NumPy: its operations cost a short canvas less."""
    of, ones = position.numpy(), [1] * position.dim()
    multiplied, kept = np.empty((2, 2, len(roles), *position.shape), dtype=np.int64)
    multiplied[0], multiplied[1] = of & _MASK32, np.array(roles).reshape(-1, *ones)
    kept[0], kept[1] = step.numpy() & _MASK32, of >> 32
    key = np.empty((2, 1, *position.shape), dtype=np.int64)
    key[0], key[1] = seed.numpy() & _MASK32, (seed.numpy() >> 32) & _MASK32
    keys = (key + _GROWTH.reshape(ROUNDS, 2, 1, *ones)) & _MASK32
    multipliers = _FACTORS.reshape(2, 1, *ones)
    multiplied, kept = _rounds(multiplied, kept, keys, multipliers, lambda x: x[::-1])
    bits = ((multiplied << 21) | (kept >> 11)).swapaxes(0, 1)
    return torch.from_numpy(bits.astype(np.float64) * UNIT).flatten(0, 1)


@_uniforms.register_fake
def _uniforms_without_values(
    seed: Tensor, step: Tensor, position: Tensor, roles: Sequence[int]
) -> Tensor:
    """Its shape."""
    return position.new_empty(2 * len(roles), *position.shape, dtype=torch.float64)


def integers(u: Tensor, n: int) -> Tensor:
    """Uniform integers in 0..n-1 from uniforms in [0, 1)."""
    return (u * n).long().clamp_(max=n - 1)
