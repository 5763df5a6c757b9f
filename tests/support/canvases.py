"""Canvases that are denoised against an encoded prompt, without a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.cache import Segments
from models.families.diffusion_gemma import DiffusionGemma
from sampler.logits.head import logits_of


class Canvas(NamedTuple):
    """A part of a pass.

    Attributes:
        prompt: ids that are encoded in it.
        canvas: ids that are denoised after them.
        start: first slot.
        before: positions that were encoded earlier.
        phase: steps that the canvas has been through.
    """

    prompt: Tensor
    canvas: Tensor
    start: int
    before: int = 0
    phase: int = 0


def denoised(network: DiffusionGemma, *parts: Canvas) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states of what a pass encodes of each part, and the logits of each canvas."""
    lengths = [len(p.prompt) + len(p.canvas) for p in parts]
    begins = np.array([p.before + len(p.prompt) for p in parts])
    segments = Segments(
        np.array(lengths),
        np.concatenate([p.before + np.arange(n) for p, n in zip(parts, lengths, strict=True)]),
        np.array([p.start for p in parts]),
        np.array([p.before + n for p, n in zip(parts, lengths, strict=True)]),
        begins,
        np.array([p.phase for p in parts]),
    )
    tokens = torch.cat([ids for p in parts for ids in (p.prompt, p.canvas)])
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    with torch.inference_mode():
        hidden = network.trunk(tokens, offsets, segments=segments).split(lengths)
        size = network.config.vocab_size
        cut = [h.split([len(p.prompt), len(p.canvas)]) for p, h in zip(parts, hidden, strict=True)]
        return [e for e, _ in cut], [logits_of(network.head, c, size) for _, c in cut]


def remembered(network: DiffusionGemma, p: Tensor, slots: Sequence[int], phase: int) -> None:
    """Let a canvas read, in a phase, the mean embeddings of distributions [R, V]."""
    with torch.inference_mode():
        at = torch.tensor(slots)
        network.remember(
            at, torch.full_like(at, phase), network.expected(p.to(network.table.dtype))
        )
