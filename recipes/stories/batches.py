"""Training data: stories as canvases, canvases as noised batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipes.stories.corpus import Story
from sampler.noise_kernel import NoiseKernel
from sampler.schedules import LogLinearSchedule

CANVAS = 256
LENGTHS = ((256, 0.7), (160, 0.2), (96, 0.1))  # canvas lengths of a batch and their shares
T_MIN = 5e-3  # below, a canvas has about one noisy token and gradients are mostly variance
START, END = 0, 1
SCORED = 5 / 8  # share of a batch's positions that the head is run on


def encode(stories: list[Story], tokenizer: Tokenizer) -> Tensor:
    """Canvases [n, 256]: start token, story, end tokens to the edge. Stories cut short are
    dropped.
    """
    rows = []
    for story, code in zip(stories, tokenizer.encode_batch([s.text for s in stories]), strict=True):
        ids = code.ids[:CANVAS]
        if story.ended or len(ids) == CANVAS:
            rows.append(ids + [END] * (CANVAS - len(ids)))
    return torch.tensor(rows, dtype=torch.int32)


@dataclass(frozen=True)
class Batch:
    """Noised canvases [B, L] and what to learn from them at R of their B L positions."""

    z: Tensor  # [B, L]
    rows: Tensor  # [R] positions in B L that are scored
    x: Tensor  # [R] clean ids
    alpha: Tensor  # [R]
    weight: Tensor  # [R] shares of the loss


def make_batch(
    data: Tensor,
    kernel: NoiseKernel,
    batch_tokens: int,
    seed: int,
    step: int,
    noise_floor: float = 0.0,
) -> Batch:
    """Batch number ``step``: same seed and step, same batch.

    Times are spread evenly over the batch. Half of the canvases keep a clean prefix, as a prompt
    would. Every noisy position is scored, and a random sample of the clean ones up to ``SCORED``,
    weighted up in turn: their loss is small, and the head is a third of the work.

    Where the share of noise, 1 - alpha, is below ``noise_floor``, the weights are scaled by its
    ratio to that: the NELBO gives the few noisy tokens of such a canvas a weight of about 1 / t,
    and most of the gradient's variance.
    """
    g = torch.Generator().manual_seed(seed * 1_000_003 + step)
    shares = torch.tensor([share for _, share in LENGTHS])
    length = LENGTHS[int(torch.multinomial(shares, 1, generator=g))][0]
    count = batch_tokens // length
    x = data[torch.randint(len(data), (count,), generator=g), :length].long()
    t = (torch.rand(1, generator=g) + torch.arange(count) / count) % 1.0
    t = T_MIN + (1.0 - T_MIN) * t[torch.randperm(count, generator=g), None]
    alpha = LogLinearSchedule().alpha(t).expand(x.shape)
    prefix = 1 + (length * torch.rand(count, 1, generator=g).square()).long()
    prefix = torch.where(torch.rand(count, 1, generator=g) < 0.5, 1, prefix)  # 1: the start token
    learn = torch.arange(length) >= prefix
    u = torch.rand(x.shape, generator=g)
    uniform_id = torch.randint(kernel.vocab_size, x.shape, generator=g)
    z = torch.where(learn, kernel.noise(x, alpha, u, uniform_id), x)

    noisy, clean = (z != x).flatten(), (learn & (z == x)).flatten()
    order = torch.rand(x.numel(), generator=g) + 2.0 * noisy + 1.0 * clean
    rows = order.topk(int(SCORED * x.numel())).indices
    weight = noisy[rows] + clean[rows] * (clean.sum() / clean[rows].sum().clamp(min=1))
    alpha = alpha.flatten()[rows]
    weight = weight / learn.sum()
    if noise_floor:
        weight = weight * ((1.0 - alpha) / noise_floor).clamp(max=1.0)
    return Batch(z, rows, x.flatten()[rows], alpha, weight)
