"""The NELBO of held-out stories."""

from __future__ import annotations

import torch
from torch import Tensor

from models.families.llada import LLaDA
from recipes.stories.batches import CANVAS, END, START
from sampler.likelihood.nelbo import nelbo_integrand
from sampler.noise_kernel import NoiseKernel
from sampler.schedules import LogLinearSchedule


@torch.inference_mode()
def nelbo(model: LLaDA, data: Tensor, kernel: NoiseKernel, rounds: int) -> dict[str, float]:
    """NELBO (eq. 15) of canvases [n, 256] as ``encode`` makes them, in fp32.

    Each canvas is noised ``rounds`` times, at times spread evenly over (0.001, 1). All positions
    but the start token count; per token means per token of the story and its first end token, so
    that padding adds nats and no tokens.
    """
    schedule, g = LogLinearSchedule(), torch.Generator().manual_seed(1234)
    device = next(model.parameters()).device
    per_story = []
    for x in data.long().split(8):
        n, length = x.shape
        nats = torch.zeros(n)
        shift = torch.rand(n, 1, generator=g)
        for r in range(rounds):
            alpha = schedule.alpha(1e-3 + (1 - 1e-3) * ((shift + r / rounds) % 1.0)).expand(x.shape)
            u = torch.rand(x.shape, generator=g)
            uniform_id = torch.randint(kernel.vocab_size, x.shape, generator=g)
            z = kernel.noise(x, alpha, u, uniform_id)
            z[:, 0] = START
            offsets = torch.arange(n + 1, device=device) * length
            logits = model.head(model.trunk(z.flatten().to(device), offsets)).float().cpu()
            log_p = kernel.suppress_mask(logits).log_softmax(-1).view(n, length, -1)
            terms = nelbo_integrand(log_p, x, z, alpha, kernel) * schedule.rate
            nats += terms[:, 1:].sum(1) / rounds
        per_story.append(nats)
    total = torch.cat(per_story)
    tokens = (data != END).sum(1).clamp(max=CANVAS - 1).float()  # start out, first end token in
    return {
        "nats_per_token": float(total.sum() / tokens.sum()),
        "standard_error": float(total.std() / len(total) ** 0.5 / tokens.mean()),
        "nats_per_position": float(total.mean() / (CANVAS - 1)),
        "stories": len(total),
    }
