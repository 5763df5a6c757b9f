"""The outcome of a step on its way to the host: all of it in one copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_STORED = {torch.float64: np.float64, torch.int64: np.int64, torch.bool: np.bool_}


@dataclass(frozen=True)
class Outcome:
    """Tensors by name, for each part of a step, laid end to end in one buffer on the device.

    Attributes:
        buffer: their numbers as int64, the bits of real ones.
        shapes: of each part, name -> (shape, type).
    """

    buffer: Tensor
    shapes: tuple[dict[str, tuple[torch.Size, torch.dtype]], ...]

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Tensor]]) -> Outcome:
        """The tensors of each part; int64, float64 or bool."""
        flat = [
            t.flatten().view(torch.int64) if t.dtype == torch.float64 else t.flatten().long()
            for part in parts
            for t in part.values()
        ]
        shapes = tuple({n: (t.shape, t.dtype) for n, t in part.items()} for part in parts)
        return cls(torch.cat(flat), shapes)

    def fetch(self) -> list[dict[str, np.ndarray]]:
        """The arrays on the host. This is where the host waits for the step."""
        buffer, at = self.buffer.cpu().numpy(), 0
        found: list[dict[str, np.ndarray]] = []
        for part in self.shapes:
            arrays = {}
            for name, (shape, kind) in part.items():
                flat = buffer[at : at + shape.numel()].reshape(shape)
                at += shape.numel()
                stored = _STORED[kind]
                arrays[name] = flat.astype(bool) if kind == torch.bool else flat.view(stored)
            found.append(arrays)
        return found
