"""The changes that one step makes on the canvases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

UNMASK, REFINE, REMASK = 0, 1, 2
Op = Literal["unmask", "refine", "remask"]
OPS: tuple[Op, Op, Op] = ("unmask", "refine", "remask")  # names of the change kinds, by code


@dataclass(frozen=True)
class Guesses:
    """Tokens that masks would have become in a step that read their logits and left the mask, on
    the host.

    Attributes:
        rows: packed positions, ascending.
        ids: the tokens.
        p: their probability, as ``RowStats.p_sample``.
    """

    rows: Int[Tensor, " G"]
    ids: Int[Tensor, " G"]
    p: Float[Tensor, " G"]

    @classmethod
    def of(cls, rows: np.ndarray, ids: np.ndarray, p: np.ndarray) -> Guesses:
        """From arrays [G]."""
        return cls(*map(torch.from_numpy, (rows, ids, p)))


@dataclass(frozen=True)
class Completed:
    """Log-probabilities of tokens that a step wrote for good, whether they stood there before or
    not, on the host.

    Attributes:
        rows: packed positions, ascending.
        log_p, top_ids, top_log_p: as in ``RowStats``.
        entropy: of the model's distribution, in nats.
    """

    rows: Int[Tensor, " W"]
    log_p: Float[Tensor, " W"]
    top_ids: Int[Tensor, "W K"]
    top_log_p: Float[Tensor, "W K"]
    entropy: Float[Tensor, " W"]

    @classmethod
    def of(cls, rows: np.ndarray, told: Mapping[str, np.ndarray], which: np.ndarray) -> Completed:
        """Of the ``rows`` [R] that ``which`` [R] marks; ``told`` has the other fields."""
        found = {n: torch.from_numpy(values[which]) for n, values in told.items()}
        return cls(torch.from_numpy(rows[which]), **found)


@dataclass(frozen=True)
class Transition:
    """The changes of one step: one entry per changed position, in packed order, on the host.

    Attributes:
        rows: packed positions.
        old, new: ids before and after.
        op: index into ``OPS``.
        confidence: probability the model gave to the new token; 0 for noise.
        log_p, top_ids, top_log_p: as in ``RowStats``; None where no canvas wants them, or
            ``completed`` has them.
        entropy: of the model's distribution, in nats; likewise.
        guesses: of masks that stay; None where no canvas wants them.
        completed: log-probabilities of what was written for good, changed or not; None where they
            are those of changes.
    """

    rows: Int[Tensor, " C"]
    old: Int[Tensor, " C"]
    new: Int[Tensor, " C"]
    op: Int[Tensor, " C"]
    confidence: Float[Tensor, " C"]
    log_p: Float[Tensor, " C"] | None = None
    top_ids: Int[Tensor, "C K"] | None = None
    top_log_p: Float[Tensor, "C K"] | None = None
    entropy: Float[Tensor, " C"] | None = None
    guesses: Guesses | None = None
    completed: Completed | None = None

    @classmethod
    def between(
        cls,
        before: np.ndarray,
        after: np.ndarray,
        mask_id: int | None,
        asked: np.ndarray,
        told: Mapping[str, np.ndarray],
        noise: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Transition:
        """The difference of two arrays of ids [T], and the facts of the positions ``asked`` [R].

        Args:
            before, after: ids.
            mask_id: m, if there is one.
            asked: positions, ascending.
            told: the fields from ``confidence`` on, each with R entries.
            noise: where noise stands before and after, both [T], if no mask shows it.
        """
        rows = (before != after).nonzero()[0]
        old, new = before[rows], after[rows]
        op = np.full_like(old, REFINE)
        if mask_id is not None:
            op[old == mask_id] = UNMASK
            op[new == mask_id] = REMASK
        elif noise is not None:
            op[noise[0][rows]] = UNMASK
            op[noise[1][rows]] = REMASK
        # where each changed position stands among those asked; the last entry is of the others
        place = np.full(len(before), len(asked))
        place[asked] = np.arange(len(asked))
        changed = place[rows]
        extra: dict[str, Any] = {}
        for name, values in told.items():
            nothing = np.zeros_like(values, shape=(1, *values.shape[1:]))
            extra[name] = torch.from_numpy(np.concatenate((values, nothing))[changed])
        ids = torch.from_numpy(old), torch.from_numpy(new)
        return cls(torch.from_numpy(rows), *ids, torch.from_numpy(op), **extra)
