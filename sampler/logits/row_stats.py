"""Facts that are read from rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sampler.packing import joined


@dataclass(frozen=True)
class RowStats:
    """The facts read from R rows of logits. A token is drawn from p: the mask suppressed, then
    temperature, then top-p.

    Attributes:
        sample: id drawn from p.
        p_sample: p of that id, or the model's probability of it (``RowQuery.as_model``).
        p_current: the same of the id that stands there.
        finite: false where the model's logits were not numbers.
        certainty: of p, as asked; 0 where it was not asked for, None where no row asks.
        entropy: of the model's distribution, in nats; 0 where it was not asked for, None where no
            row asks.
        likeliest: id of the highest probability; likewise.
        spread: entropy of p, in nats; likewise.
        expected: mean embedding of p, [R, D]; None too where the network has no use for it.
        log_p: of the model's distribution at the id asked for; likewise.
        top_ids, top_log_p: its likeliest ids, in order; likewise.
        told_entropy: its entropy, in nats; likewise.
    """

    sample: Int[Tensor, " R"]
    p_sample: Float[Tensor, " R"]
    p_current: Float[Tensor, " R"]
    finite: Bool[Tensor, " R"]
    certainty: Float[Tensor, " R"] | None = None
    entropy: Float[Tensor, " R"] | None = None
    likeliest: Int[Tensor, " R"] | None = None
    spread: Float[Tensor, " R"] | None = None
    expected: Float[Tensor, "R D"] | None = None
    log_p: Float[Tensor, " R"] | None = None
    top_ids: Int[Tensor, "R K"] | None = None
    top_log_p: Float[Tensor, "R K"] | None = None
    told_entropy: Float[Tensor, " R"] | None = None

    def part(self, rows: slice) -> RowStats:
        """The facts of some of the rows."""
        found: dict[str, Any] = {n: t if t is None else t[rows] for n, t in vars(self).items()}
        return RowStats(**found)

    @staticmethod
    def joined(parts: Sequence[RowStats]) -> RowStats:
        """The facts of several chunks of one query, in order."""
        if len(parts) == 1:
            return parts[0]
        found: dict[str, Any] = {}
        for name in RowStats.__dataclass_fields__:
            tensors = [getattr(p, name) for p in parts]
            found[name] = None if tensors[0] is None else joined(tensors)
        return RowStats(**found)
