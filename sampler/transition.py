"""What one step changes on the canvases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.logits.row_reader import RowStats

UNMASK, REFINE, REMASK = 0, 1, 2
Op = Literal["unmask", "refine", "remask"]
OPS: tuple[Op, Op, Op] = ("unmask", "refine", "remask")  # names of the change kinds, by code


@dataclass(frozen=True)
class Transition:
    """What one step changed: one entry per changed position, in packed order.

    Attributes:
        rows: packed positions.
        old, new: ids before and after.
        op: index into ``OPS``.
        confidence: probability the model gave to the new token; 0 for noise.
        log_p, top_ids, top_log_p: as in ``RowStats``, for canvases that want them.
    """

    rows: Int[Tensor, " C"]
    old: Int[Tensor, " C"]
    new: Int[Tensor, " C"]
    op: Int[Tensor, " C"]
    confidence: Float[Tensor, " C"]
    log_p: Float[Tensor, " C"]
    top_ids: Int[Tensor, "C K"]
    top_log_p: Float[Tensor, "C K"]

    @classmethod
    def between(
        cls,
        before: Int[Tensor, " T"],
        after: Int[Tensor, " T"],
        mask_id: int | None,
        asked: Int[Tensor, " R"],
        stats: RowStats,
    ) -> Transition:
        """The difference of two token arrays, and what the model said of the rows ``asked``."""
        rows = torch.nonzero(before != after)[:, 0]
        old, new = before[rows], after[rows]
        op = torch.full_like(old, REFINE)
        if mask_id is not None:
            op[old == mask_id] = UNMASK
            op[new == mask_id] = REMASK

        def told(values: Tensor) -> Tensor:
            everywhere = values.new_zeros(len(before), *values.shape[1:])
            return everywhere.index_copy(0, asked, values)[rows]

        guessed = torch.where(after[asked] == stats.sample, stats.p_sample, 0.0)
        log_p, top_ids, top_log_p = map(told, (stats.log_p, stats.top_ids, stats.top_log_p))
        return cls(rows, old, new, op, told(guessed), log_p, top_ids, top_log_p)
