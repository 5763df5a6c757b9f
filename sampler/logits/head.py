"""The network's head on few rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

MIN_ROWS = 16
"""Rows that ``head`` is called with at least: CPU libraries round products of fewer rows in another
way, so a row would get other bits alone than in company. ``models.base`` has the same number for
the rows inside a network: the sampler imports nothing of ``models``.
"""


def least_rows(network: object) -> int:
    """Rows that a network's head is called with at least: its ``least_rows``, or ``MIN_ROWS``."""
    return getattr(network, "least_rows", MIN_ROWS)


def logits_of(
    head: Callable[[Tensor], Tensor], hidden: Tensor, vocab_size: int, least: int = MIN_ROWS
) -> Tensor:
    """Hidden rows [R, D] -> logits [R, vocab_size], zero rows appended for the call if R is less
    than ``least``; no call for R = 0.
    """
    count = hidden.shape[0]
    if not count:
        return hidden.new_zeros(0, vocab_size)
    return head(F.pad(hidden, (0, 0, 0, max(0, least - count))))[:count]
