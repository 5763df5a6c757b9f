"""Choosing the best candidates of each canvas, all canvases at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ranked(
    score: Float[Tensor, " R"],
    canvas: Int[Tensor, " R"],
    candidate: Bool[Tensor, " R"],
    size: int,
) -> tuple[Int[Tensor, " C"], Int[Tensor, " C"]]:
    """The candidates canvas by canvas, highest score first, ties to the earlier row.

    Args:
        score: of each row.
        canvas: which each row belongs to, ascending.
        candidate: rows that take part.
        size: number of canvases.

    Returns:
        (rows in that order, each one's place within its canvas from 0).
    """
    rows = torch.nonzero(candidate)[:, 0]
    by_score = rows[score[rows].argsort(descending=True, stable=True)]
    order = by_score[canvas[by_score].argsort(stable=True)]
    of = canvas[order]
    count = torch.bincount(of, minlength=size)
    first = count.cumsum(0) - count
    return order, torch.arange(len(order), device=of.device) - first[of]


def best_of_each(
    score: Float[Tensor, " R"],
    canvas: Int[Tensor, " R"],
    candidate: Bool[Tensor, " R"],
    count: Int[Tensor, " B"],
) -> Bool[Tensor, " R"]:
    """The ``count`` highest-scoring candidates of each canvas, ties to the earlier row.

    ``canvas`` is ascending. A canvas with fewer candidates gives them all.
    """
    order, place = ranked(score, canvas, candidate, count.numel())
    chosen = torch.zeros_like(candidate)
    chosen[order[place < count[canvas[order]]]] = True
    return chosen
