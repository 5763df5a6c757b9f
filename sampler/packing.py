"""Arrays of several requests end to end: joining them, and ranking within each canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; rows of tables are filled up with zeros to the widest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].dim() == 2:
        width = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, width - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


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
