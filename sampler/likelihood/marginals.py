"""Log-probabilities of some tokens at masked positions of canvases."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sampler.interface import Denoiser
from sampler.logits.head import logits_of
from sampler.logits.row_requests import rows_at_once
from sampler.noise_kernel import NoiseKernel


@torch.inference_mode()
def log_marginals(
    network: Denoiser,
    tokens: Int[Tensor, " T"],
    offsets: Int[Tensor, " B1"],
    rows: Int[Tensor, " R"],
    candidates: Int[Tensor, " C"],
    kernel: NoiseKernel,
) -> Float[Tensor, "R C"]:
    """Log-probability of each candidate at each of some positions, in float64; the mask has none.

    The network runs once; logits exist for a chunk of rows at a time.

    Args:
        network: the model.
        tokens: of all canvases, one after the other.
        offsets: where each canvas begins, and the end of the last.
        rows: positions among all tokens, ascending.
        candidates: ids.
        kernel: of the model's vocabulary.
    """
    hidden = network.trunk(tokens, offsets, rows)
    found = torch.empty(len(rows), len(candidates), dtype=torch.float64, device=tokens.device)
    chunk = rows_at_once(kernel.vocab_size, tokens.device)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        logits = logits_of(network.head, hidden[part], kernel.vocab_size).double()
        found[part] = kernel.suppress_mask(logits).log_softmax(-1)[:, candidates]
    return found
