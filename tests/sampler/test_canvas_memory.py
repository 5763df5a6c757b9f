"""No step of canvases has an array of all their positions and the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.checkpoints.load import load_network
from models.checkpoints.random_init import parse_shape, write_random
from models.families.diffusion_gemma import DiffusionGemma
from sampler import make_params
from sampler.logits.row_requests import rows_at_once
from sampler.step import take_step
from tests.support.caching import begun

V, C = 65536, 16


class Widest(TorchDispatchMode):
    """Remembers the most rows of any array of rows and the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.dim() > 1 and made.shape[-1] >= V:
                self.rows = max(self.rows, made.numel() // V)
        return out


def test_rows_of_logits_and_of_mean_embeddings_are_those_of_a_chunk(tmp_path):
    shape = parse_shape(f"tiny,text_config.vocab_size={V}", "diffusion_gemma")
    write_random(tmp_path / "wide", shape, family="diffusion_gemma", dtype=torch.float32)
    network = load_network(tmp_path / "wide")
    assert isinstance(network, DiffusionGemma)
    chunk = rows_at_once(V, torch.device("cpu"))
    params = make_params("entropy_bound", block_length=C, steps=8, stop_entropy=0.0)
    found = []
    for canvases in (1, 12):
        network.reserve(1000)
        some = [([7] * 3 + [0] * C, [False] * 3 + [True] * C, params)] * canvases
        sampler, batch = begun(network, None, some)
        widest = Widest()
        for _ in range(2):
            with widest:
                result = take_step(sampler, network, batch)
            batch = result.batch
            assert result.head_rows == canvases * C
        found.append(widest.rows)
    assert 4 * chunk < 12 * C  # many chunks
    assert found == [C, chunk]
