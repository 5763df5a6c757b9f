"""Small real networks for sampler tests: a table of logits, and one that looks at its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from sampler.batch import CanvasBatch
from sampler.params import SamplingParams
from sampler.step import take_step

N, MASK = 12, 11


@dataclass(frozen=True)
class Table:
    """Every position gets the same logits [V]; hidden states carry nothing."""

    logits: Tensor
    classes: int = 0

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels=None) -> Tensor:
        return torch.zeros(len(rows), 1)

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits.expand(len(hidden), -1)


class Neighbours:
    """Logits of a position depend on the whole canvas: a fixed random function of three tokens.

    Canvases must all be three tokens long.
    """

    classes = 0

    def __init__(self, vocab_size: int, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(3, 3, vocab_size, vocab_size, generator=g)

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels=None) -> Tensor:
        """[R, V] logits already."""
        x = tokens.view(-1, 3)
        at = torch.arange(3)
        # sum over the sources j of table[target i, source j, token at j]
        return self.table[at[:, None], at[None, :], x[:, None, :]].sum(2).flatten(0, 1)[rows]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class Hashed:
    """Logits [N] are a fixed random function of a position's token and its left neighbour's."""

    classes = 0

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(N, N, N, generator=g)

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels=None) -> Tensor:
        left = tokens.roll(1)
        left[offsets[:-1]] = 0
        return self.table[left, tokens][rows]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class Placed(Hashed):
    """The same, and another number for each of a canvas' first 64 positions."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.places = torch.randn(64, N, generator=torch.Generator().manual_seed(seed + 1))

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels=None) -> Tensor:
        canvas = torch.searchsorted(offsets, rows, right=True) - 1
        return super().trunk(tokens, offsets, rows) + self.places[rows - offsets[canvas]]


class Mixing:
    """Logits depend on a position and on the mean of its canvas; shapes on nothing but the room."""

    classes = 0

    def __init__(self, vocab_size: int) -> None:
        g = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(vocab_size, 16, generator=g)

    def trunk(self, tokens, offsets, rows, labels=None):
        x = self.embedding[tokens]
        upto = F.pad(x.double().cumsum(0), (0, 0, 1, 0))
        if offsets.device != tokens.device:  # on the host: nothing has to be copied or asked
            bounds = list(pairwise(offsets.tolist()))
            sums = [upto.select(0, end) - upto.select(0, begin) for begin, end in bounds]
            sizes = [end - begin for begin, end in bounds]
            means = [(s / max(n, 1)).expand(n, -1) for s, n in zip(sums, sizes, strict=True)]
            return (2 * x + torch.cat(means).float())[rows]
        sums = upto[offsets[1:]] - upto[offsets[:-1]]
        mean = sums / offsets.diff().clamp(min=1)[:, None]
        place = torch.arange(len(tokens), device=tokens.device)
        of = torch.searchsorted(offsets, place, right=True) - 1
        return (2 * x + mean.float()[of])[rows]

    def fits(self, positions, cached):
        return not cached

    def trunk_of(self, tokens, packing, rows, labels=None):
        _, sequence, offsets, *_ = packing
        x = self.embedding[tokens]
        upto = F.pad(x.double().cumsum(0), (0, 0, 1, 0))
        sums = upto[offsets[1:].long()] - upto[offsets[:-1].long()]
        mean = sums / offsets.diff().clamp(min=1)[:, None]
        return (2 * x + F.pad(mean, (0, 0, 0, 1)).float()[sequence])[rows]

    def head(self, hidden):
        return hidden @ self.embedding.T


def states(network, sampler, canvas) -> list[list[int]]:
    """All states of one canvas, the first one included."""
    batch = sampler.begin(CanvasBatch.of([canvas]))
    found = [batch.tokens.tolist()]
    for _ in range(canvas[2].calls):
        batch = take_step(sampler, network, batch).batch
        found.append(batch.tokens.tolist())
    return found


def behind(prompt: list[int], length: int, params: SamplingParams):
    return prompt + [0] * length, [False] * len(prompt) + [True] * length, params
