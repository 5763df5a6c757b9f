"""Arrays of several requests behind each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; rows of tables are filled up with zeros to the widest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].dim() == 2:
        width = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, width - part.shape[1])) for part in parts]
    return torch.cat(list(parts))
