"""No tensor of logits outlives its chunk of rows."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.logits.head import MIN_ROWS
from sampler.logits.row_requests import CHUNK_ELEMENTS
from sampler.step import take_steps

VOCAB = 126_464
CHUNK_BYTES = 4 * max(MIN_ROWS * VOCAB, CHUNK_ELEMENTS["cpu"])


class LiveBytes(TorchDispatchMode):
    """Bytes held by the tensors that were made inside, at most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known:
                    self._known.add(key)
                    self.live += size
                    weakref.finalize(storage, self._gone, key, size)
        self.peak = max(self.peak, self.live)
        return out


class Network:
    """A head of full width over a trunk that only looks at each token."""

    classes = 0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCAB, 8).requires_grad_(False)
        self.linear = nn.Linear(8, VOCAB, bias=False).requires_grad_(False)
        self.linear.weight *= 10  # a peaked distribution: small nuclei are quick

    def trunk(
        self, tokens: Tensor, offsets: Tensor, rows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        return self.embedding(tokens[rows])

    def head(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)


@pytest.mark.parametrize(
    "chosen",
    [
        {"sampler": "ancestral"},
        {"sampler": "gidd", "seed": 1},
        {"sampler": "topk", "confidence_eos_eot_inf": True, "guidance_scale": 2.0},
        pytest.param(
            {"sampler": "threshold", "entropy_bound": 1.0, "top_p": 0.9}, marks=pytest.mark.slow
        ),
    ],
)
def test_peak_allocation_at_llada_s_vocabulary(chosen):
    params = make_params(steps=2, temperature=0.7, **chosen)
    sampler = SAMPLERS[params.sampler].make(VOCAB, 126_336, (126_081, 126_348))
    canvases = [([0] * 128, [True] * 128, params)] * 4
    batch = sampler.begin(CanvasBatch.of(canvases))
    network = Network()
    everything = 4 * 512 * VOCAB
    with LiveBytes() as memory:
        result = take_steps(network, [(sampler, batch)])[0]
    assert result.head_rows > 200

    assert CHUNK_BYTES < memory.peak < min(14 * CHUNK_BYTES, everything / 2)
