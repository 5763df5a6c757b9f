"""Reference loops to measure against, restated from the papers in plain PyTorch.

``explicit_posterior_loop`` is how the XDLM code samples: the whole posterior of eq. 11, batch x
length x vocabulary, and one Gumbel number for every entry of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.inference_mode()
def explicit_posterior_loop(
    logits_of: Callable[[Tensor], Tensor],
    *,
    batch: int,
    length: int,
    steps: int,
    vocab_size: int,
    mask_id: int,
    mixing_ratio: float,
    seed: int,
) -> Tensor:
    """Sample [batch, length] ids in steps + 1 network calls.

    Args:
        logits_of: ids [B, L] -> logits [B, L, V].
        batch, length, steps, vocab_size, mask_id, mixing_ratio, seed: as their names say.
    """
    g = torch.Generator().manual_seed(seed)
    n, k = vocab_size, mixing_ratio
    rate = torch.full((n,), k / n)
    rate[mask_id] += 1.0 - k
    masked = torch.rand(batch, length, generator=g) < 1.0 - k
    z = torch.where(masked, mask_id, torch.randint(n, (batch, length), generator=g))
    dt = (1.0 - 1e-5) / steps
    for i in range(steps + 1):
        t = 1.0 - i * dt
        a_t = 1.0 - 0.999 * (t if i < steps else 1e-5)
        a_s = 1.0 - 0.999 * (t - dt) if i < steps else 1.0
        a_ts = a_t / a_s
        logits = logits_of(z).float()
        logits[..., mask_id] = torch.finfo(logits.dtype).min
        p = logits.softmax(-1)
        f_s = a_s * p + (1.0 - a_s) * rate
        at_z = torch.nn.functional.one_hot(z, n).to(p.dtype)
        f_ts = a_ts * at_z + (1.0 - a_ts) * rate[z][..., None]
        f_t = a_t * p.gather(-1, z[..., None]) + (1.0 - a_t) * rate[z][..., None]
        q = f_s * f_ts / f_t
        gumbel = 1e-10 - (torch.rand(q.shape, generator=g) + 1e-10).log()
        z = (q / gumbel).argmax(-1)
    return z
