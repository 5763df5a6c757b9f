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


def logits_of(head: Callable[[Tensor], Tensor], hidden: Tensor, vocab_size: int) -> Tensor:
    """Hidden rows [R, D] -> logits [R, vocab_size], zero rows appended for the call if R is less
    than ``MIN_ROWS``; no call for R = 0.
    """
    count = hidden.shape[0]
    if not count:
        return hidden.new_zeros(0, vocab_size)
    return head(F.pad(hidden, (0, 0, 0, max(0, MIN_ROWS - count))))[:count]
