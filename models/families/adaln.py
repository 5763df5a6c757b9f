"""Layer norms and gates that are modulated by a condition (adaLN, arXiv:2212.09748), and the parts
of the condition.

The published checkpoints were trained without time conditioning, so the time is always 0. A text
has one condition; of a class-conditional network each label has its own, and so has no label.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import MIN_ROWS, pad_rows
from models.kernels.modulate import EPS

TIME_FEATURES = 256


class TimeEmbedding(nn.Module):
    """A small network over sinusoids of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def at_zero(self) -> Tensor:
        """The embedding of time 0, [MIN_ROWS, width]: all cosines are 1, all sines 0.

        The rows are equal; of one alone CPU libraries make a product whose rounding depends on
        where the weights lie in memory.
        """
        first: Any = self.mlp[0]
        features = first.weight.new_zeros(MIN_ROWS, TIME_FEATURES)
        features[:, : TIME_FEATURES // 2] = 1.0
        return self.mlp(features)


class LabelEmbedding(nn.Module):
    """A row for each class and, behind them, one for no class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)


def conditions(times: TimeEmbedding, labels: LabelEmbedding | None) -> Tensor:
    """The condition of each label, the null label last, [classes + 1, width]; of a text, [1, ...].

    Rows behind them, of no meaning, make up MIN_ROWS: [max(classes + 1, MIN_ROWS), width].
    """
    at_zero = times.at_zero()
    if labels is None:
        return F.silu(at_zero)
    table = labels.embedding_table.weight
    return F.silu(at_zero[:1] + pad_rows(table))


def norm(width: int) -> nn.LayerNorm:
    """The norm whose output is modulated."""
    return nn.LayerNorm(width, eps=EPS, bias=False)
