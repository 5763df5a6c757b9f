"""Mixtures of experts against loops over experts, and how many operations they take."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.base import MIN_ROWS
from models.families.experts import Experts, Routing


def experts(count: int, hidden: int = 32, width: int = 24) -> Experts:
    torch.manual_seed(0)
    return Experts(count, hidden, width).requires_grad_(False)


def loop(own: Experts, x: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """Each token through each of its experts, in float64."""
    out = torch.zeros_like(x, dtype=torch.float64)
    for t in range(len(x)):
        for weight, e in zip(weights[t].tolist(), indices[t].tolist(), strict=True):
            gate, up = (own.gate_up[e].double() @ x[t].double()).chunk(2)
            out[t] += weight * (own.down[e].double() @ (F.silu(gate) * up))
    return out


def chosen(g: torch.Generator, tokens: int, count: int, k: int) -> tuple[Tensor, Tensor]:
    scores = torch.rand(tokens, count, generator=g) ** 4  # some experts are hardly used
    weights, indices = scores.topk(k)
    return weights, indices


@pytest.mark.parametrize(
    ("tokens", "count", "k"), [(1, 8, 2), (16, 4, 4), (100, 64, 8), (50, 1, 1)]
)
def test_grouped_experts_equal_a_loop_over_tokens(tokens, count, k):
    g = torch.Generator().manual_seed(tokens)
    own, x = experts(count), torch.randn(tokens, 32, generator=g)
    weights, indices = chosen(g, tokens, count, k)
    found = own(x, weights, indices)
    torch.testing.assert_close(found.double(), loop(own, x, weights, indices), rtol=0, atol=1e-6)


def test_a_row_has_the_same_bits_whichever_rows_share_its_experts():
    g = torch.Generator().manual_seed(1)
    own, x = experts(8), torch.randn(300, 32, generator=g)
    weights, indices = chosen(g, 300, 8, 2)
    whole = own(x, weights, indices)
    for size in (MIN_ROWS, 17, 40, 111):
        rows = torch.randperm(300, generator=g)[:size]
        assert torch.equal(own(x[rows], weights[rows], indices[rows]), whole[rows])


class Counted(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_depend_on_that_of_experts():
    found = set()
    for count in (4, 32, 256):
        g = torch.Generator().manual_seed(2)
        own, x = experts(count), torch.randn(64, 32, generator=g)
        weights, indices = chosen(g, 64, count, 2)
        with torch.inference_mode(), Counted() as counted:
            own(x, weights, indices)
        found.add(counted.count)
    assert len(found) == 1 and found.pop() < 50


def test_a_softmax_router_takes_the_likeliest_experts():
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 8, generator=g)
    p = logits.softmax(-1)
    weights, indices = Routing(8, 3, 1).route(logits, None)
    assert torch.equal(weights, p.sort(descending=True).values[:, :3])
    assert torch.equal(p.gather(1, indices), weights)
    normalised, _ = Routing(8, 3, 1, normalised=True).route(logits, None)
    torch.testing.assert_close(normalised, weights / weights.sum(-1, keepdim=True))


def test_a_bias_decides_and_weighs_only_where_it_shall():
    g = torch.Generator().manual_seed(4)
    logits, bias = torch.randn(40, 8, generator=g), torch.randn(8, generator=g)
    scores = logits.softmax(-1)
    plain, indices = Routing(8, 3, 1, bias=True).route(logits, bias)
    assert torch.equal(indices, (scores + bias).topk(3).indices)
    assert torch.equal(plain, scores.gather(1, indices))
    biased, same = Routing(8, 3, 1, bias=True, bias_weighs=True).route(logits, bias)
    assert torch.equal(same, indices) and torch.equal(biased, (scores + bias).gather(1, indices))


def test_experts_outside_the_best_groups_are_not_chosen():
    g = torch.Generator().manual_seed(5)
    logits, bias = torch.randn(60, 16, generator=g), torch.randn(16, generator=g)
    routing = Routing(
        16, 4, 1, sigmoid=True, bias=True, normalised=True, scale=2.5, groups=4, chosen_groups=2
    )
    weights, indices = routing.route(logits, bias)
    for row in range(60):
        s = logits[row].sigmoid()
        r = s + bias
        best = sorted(range(4), key=lambda j: -float(r[4 * j : 4 * j + 4].topk(2).values.sum()))
        allowed = [e for j in best[:2] for e in range(4 * j, 4 * j + 4)]
        wanted = sorted(allowed, key=lambda e: -float(r[e]))[:4]
        assert indices[row].tolist() == wanted
        expected = 2.5 * s[wanted] / s[wanted].sum()
        torch.testing.assert_close(weights[row], expected)
