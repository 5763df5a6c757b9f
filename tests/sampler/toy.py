"""Small real networks for sampler tests: a table of logits, and one that looks at its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """Every position gets the same logits [V]; hidden states carry nothing."""

    logits: Tensor

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), 1)

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits.expand(len(hidden), -1)


class Neighbours:
    """Logits of a position depend on the whole canvas: a fixed random function of three tokens.

    Canvases must all be three tokens long.
    """

    def __init__(self, vocab_size: int, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(3, 3, vocab_size, vocab_size, generator=g)

    def trunk(self, tokens: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        """[R, V] logits already."""
        x = tokens.view(-1, 3)
        at = torch.arange(3)
        # sum over the sources j of table[target i, source j, token at j]
        return self.table[at[:, None], at[None, :], x[:, None, :]].sum(2).flatten(0, 1)[rows]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden
