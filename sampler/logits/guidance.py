"""Classifier-free guidance: a second look at the canvas without what it was conditioned on.

The unconditional copy of a canvas with a class label has none and keeps its tokens; that of another
has every given position masked. The logits used are l = w cond - (w - 1) uncond, which is the
paper's w log p - (w - 1) log p_uncond up to a constant per row. w = 1 is off and costs nothing.
(LLaDA's ``cfg_scale`` and the paper's gamma are w - 1.)

Mask suppression, biases, temperature and top-p follow, on l. The published code computes the same
in the network's own precision (bf16 on a GPU); here it is fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.layout import Layout


def unconditional(
    tokens: Tensor, layout: Layout, labels: Tensor, mask_id: int | None
) -> tuple[Tensor, Tensor]:
    """Tokens [T] and labels [B] of the unconditional copies of all canvases."""
    if mask_id is not None:
        kept = layout.editable | (labels >= 0)[layout.canvas]
        tokens = torch.where(kept, tokens, mask_id)
    return tokens, torch.full_like(labels, -1)


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Logits [R, V] of both copies and w [R] -> guided logits [R, V], in fp32; w = 1 gives the
    first.
    """
    w = scale[:, None].float()
    conditional, unconditional = conditional.float(), unconditional.float()
    mixed = unconditional + w * (conditional - unconditional)
    return torch.where(w == 1.0, conditional, mixed)
