"""Memory that a server needs for a model: its weights and one denoising step."""

from __future__ import annotations

import torch

from models.checkpoints.memory import Needs
from sampler.logits.row_requests import rows_at_once

LOGITS = 3  # arrays of the shape of a chunk of logits that are alive at once, in float32


def step_bytes(needs: Needs, positions: int, itemsize: int, device: str) -> int:
    """Bytes of a step over a number of positions, beside the weights; estimated.

    Args:
        needs: of the network.
        positions: of all canvases.
        itemsize: bytes of a number in the type of the weights.
        device: ``cpu`` or ``cuda``.
    """
    vocabulary = needs.vocab_size
    rows = min(positions, rows_at_once(vocabulary, torch.device(device)))
    return needs.positions(positions, itemsize) + rows * vocabulary * 4 * LOGITS
