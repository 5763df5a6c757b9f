"""Reference loops to measure against, restated from the papers in plain PyTorch.

``explicit_posterior_loop`` is how the XDLM code samples: the whole posterior of eq. 11, batch x
length x vocabulary, and one Gumbel number for every entry of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KeysValues = Sequence[tuple[Tensor, Tensor]]
CachedForward = Callable[[Tensor, KeysValues | None, int], tuple[Tensor, KeysValues]]
"""(ids [1, T], keys and values of all positions by layer or None, position of the first id) ->
(logits [1, T, V], keys and values). Those of the ids replace what is kept at their positions.
"""


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
    device: str = "cpu",
) -> Tensor:
    """Sample [batch, length] ids in steps + 1 network calls.

    Args:
        logits_of: ids [B, L] -> logits [B, L, V].
        batch, length, steps, vocab_size, mask_id, mixing_ratio, seed: as their names say.
        device: where everything happens.
    """
    g = torch.Generator(device).manual_seed(seed)
    n, k = vocab_size, mixing_ratio
    rate = torch.full((n,), k / n, device=device)
    rate[mask_id] += 1.0 - k
    shape = (batch, length)
    masked = torch.rand(shape, generator=g, device=device) < 1.0 - k
    z = torch.where(masked, mask_id, torch.randint(n, shape, generator=g, device=device))
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
        gumbel = 1e-10 - (torch.rand(q.shape, generator=g, device=device) + 1e-10).log()
        z = (q / gumbel).argmax(-1)
    return z


@torch.inference_mode()
def llada_loop(
    logits_of: Callable[[Tensor], Tensor],
    *,
    batch: int,
    length: int,
    block: int,
    steps: int,
    mask_id: int,
    mixing_ratio: float,
    temperature: float,
    seed: int,
    prompt: Tensor | None = None,
    device: str = "cpu",
) -> Tensor:
    """How LLaDA and LLaDA-XDLM decode: all logits, a Gumbel number for each, a softmax of them all.
    Of equals the first wins (the published code leaves it to ``topk``, which does not say).

    Blocks must divide the length, and their number the steps. Canvases may begin with a prompt of
    ids [batch, P]. Returns [batch, P + length] ids.
    """
    g = torch.Generator(device).manual_seed(seed)
    k = mixing_ratio
    x = torch.full((batch, length), mask_id, device=device)
    given = 0 if prompt is None else prompt.shape[1]
    if prompt is not None:
        x = torch.cat((prompt, x), 1)
    steps_here = steps // (length // block)
    share, rest = divmod(block, steps_here)
    fill = torch.tensor([share + (i < rest) for i in range(steps_here)])
    edits = (fill.cumsum(0).float() * k / (1.0 - k)).long()
    edits[0] = 0
    edits = edits.diff(prepend=edits[:1])
    for end in range(given + block, given + length + 1, block):
        carry = torch.zeros(batch, dtype=torch.long)
        for i in range(steps_here):
            logits = logits_of(x)
            noisy = logits
            if temperature > 0:
                u = torch.rand(logits.shape, generator=g, dtype=torch.float64, device=device)
                noisy = logits.double().exp() / (-u.log()) ** temperature
            guess = noisy.argmax(-1)
            p = logits.softmax(-1)
            sure = p.gather(-1, guess[..., None])[..., 0]
            now = p.gather(-1, x[..., None])[..., 0]
            sure[:, end:] = -torch.inf
            masked = x == mask_id
            change = torch.zeros_like(masked)
            for b in range(batch):
                best = sure[b].where(masked[b], -torch.inf).sort(descending=True, stable=True)
                change[b, best.indices[: int(fill[i])]] = True
                if k > 0:
                    may = ~masked[b] & (guess[b] != x[b]) & (sure[b] >= now[b])
                    count = min(int(may.sum()), int(edits[i] + carry[b]))
                    carry[b] += edits[i] - count
                    best = sure[b].where(may, -torch.inf).sort(descending=True, stable=True)
                    change[b, best.indices[:count]] = True
            x = torch.where(change, guess, x)
    return x


@torch.inference_mode()
def fast_dllm_loop(
    forward: CachedForward,
    *,
    prompt: Tensor,
    length: int,
    block: int,
    steps: int,
    mask_id: int,
    mode: str,
) -> Tensor:
    """How Fast-dLLM (arXiv:2505.22618) decodes LLaDA at temperature 0 with a fixed number of tokens
    a step: one canvas, logits of every position that is run, a softmax of them all in float64.

    Args:
        forward: the network; see ``CachedForward``.
        prompt: [1, P] ids.
        length, block, steps, mask_id: positions to fill, of a block, steps in all, the mask.
        mode: ``none``, ``prefix`` or ``dual``.

    Returns:
        [1, P + length] ids.
    """
    given = prompt.shape[1]
    x = torch.cat((prompt, prompt.new_full((1, length), mask_id)), 1)
    steps_here = steps // (length // block)
    share, rest = divmod(block, steps_here)
    for begin in range(given, given + length, block):
        end, kept = begin + block, None
        for i in range(steps_here):
            if mode == "none" or kept is None:
                first, last = 0, x.shape[1]
                logits, kept = forward(x, None, 0)
            else:
                first, last = begin, x.shape[1] if mode == "prefix" else end
                logits, _ = forward(x[:, first:last], kept, first)
            guess = logits.argmax(-1)
            p = logits.double().softmax(-1)
            sure = p.gather(-1, guess[..., None])[..., 0]
            masked = x[:, first:last] == mask_id
            masked[:, end - first :] = False
            sure = sure.where(masked, -torch.inf)
            best = sure[0].sort(descending=True, stable=True).indices[: share + (i < rest)]
            x[0, first + best] = guess[0, best]
    return x
