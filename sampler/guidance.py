"""Classifier-free guidance: a second look at the canvas without its prompt.

The unconditional copy of a canvas has every clamped position masked; the logits used are
l = w cond - (w - 1) uncond, which is the paper's w log p - (w - 1) log p_uncond up to a constant
per row. w = 1 is off and costs nothing. (LLaDA's ``cfg_scale`` and the paper's gamma are w - 1.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.canvas import CanvasBatch


def without_prompt(batch: CanvasBatch, mask_id: int) -> Tensor:
    """The tokens [T] of all canvases, the clamped ones masked."""
    return torch.where(batch.editable, batch.tokens, mask_id)


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Logits [R, V] of both copies and w [R] -> guided logits [R, V], in fp32."""
    w = scale[:, None].float()
    return unconditional.float() + w * (conditional.float() - unconditional.float())
