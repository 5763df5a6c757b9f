"""Mixtures of experts (arXiv:2101.03961): routers, and experts whose matrices are stacked.

Routing is fp32 whatever the weights are. Rows are sorted by expert and run through one grouped
matrix product for all experts, so the number of operations does not depend on that of the experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import MIN_ROWS, Piece


@dataclass(frozen=True)
class Routing:
    """How tokens choose experts.

    Attributes:
        experts: E.
        chosen: experts of a token, k.
        width: of an expert.
        shared: width of the expert that all tokens go through; 0 for none.
        sigmoid: scores are sigmoids of the router's logits; else their softmax.
        bias: the router has a bias of each expert, added to the scores.
        bias_weighs: the biased score is also the weight of an expert (LLaDA-MoE); else the bias
            only decides which are chosen (arXiv:2408.15664).
        normalised: weights are divided by their sum.
        scale: factor of the weights.
        groups, chosen_groups: the experts form groups of consecutive ones, and those of some groups
            alone may be chosen (DeepSeek-V3, arXiv:2412.19437, eq. 13 to 16).
    """

    experts: int
    chosen: int
    width: int
    shared: int = 0
    sigmoid: bool = False
    bias: bool = False
    bias_weighs: bool = False
    normalised: bool = False
    scale: float = 1.0
    groups: int = 1
    chosen_groups: int = 1

    def route(self, logits: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Args:
            logits: of the router, [T, E] in fp32.
            bias: [E] in fp32, if there is one.

        Returns:
            weights [T, k] in fp32, and indices of the experts [T, k].
        """
        # not torch.sigmoid, which rounds the last entries of an array in another way on some CPUs
        scores = 1 / (1 + (-logits).exp()) if self.sigmoid else logits.softmax(-1)
        ranked = scores if bias is None else scores + bias
        if self.bias_weighs:
            scores = ranked
        if self.groups > 1:
            grouped = ranked.unflatten(-1, (self.groups, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1)
            kept = best.topk(self.chosen_groups, dim=-1).indices
            open_ = torch.zeros_like(best, dtype=torch.bool).scatter(-1, kept, value=True)
            ranked = grouped.masked_fill(~open_[..., None], -torch.inf).flatten(-2)
        indices = ranked.topk(self.chosen, dim=-1).indices
        weights = scores.gather(-1, indices)
        if self.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale, indices


class Router(nn.Linear):
    """The matrix from hidden states to scores of experts."""

    def __init__(self, hidden: int, experts: int) -> None:
        super().__init__(hidden, experts, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[T, D] -> [T, E] in fp32."""
        return F.linear(input.float(), self.weight.float())


class Experts(nn.Module):
    """Gated networks with their matrices stacked: W_down(act(W_gate y) * W_up y) of each.

    Attributes:
        gate_up: [E, 2 W, D], the rows of W_gate first.
        down: [E, D, W].
    """

    def __init__(self, count: int, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(count, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, width))
        for matrices in (self.gate_up, self.down):
            nn.init.normal_(matrices, std=0.02)

    @staticmethod
    def act(x: Tensor) -> Tensor:
        """The function of the gate, element by element: SwiGLU's silu."""
        return F.silu(x)

    def divide(self, ranks: int) -> None:
        """Keep the room of one rank's share of each expert; outputs of all ranks add up."""
        count, hidden, width = self.down.shape
        width //= ranks
        self.gate_up = nn.Parameter(self.gate_up.new_empty(count, 2 * width, hidden))
        self.down = nn.Parameter(self.down.new_empty(count, hidden, width))

    def pieces(self, prefix: str) -> dict[str, Piece]:
        """The matrices as published, each of its own; names begin with ``prefix``."""
        count, _, width = self.down.shape
        gate, up = slice(0, width), slice(width, 2 * width)
        found: dict[str, Piece] = {}
        for e in range(count):
            found[f"{prefix}{e}.gate_proj.weight"] = Piece(f"{prefix}gate_up", (e, gate))
            found[f"{prefix}{e}.up_proj.weight"] = Piece(f"{prefix}gate_up", (e, up))
            found[f"{prefix}{e}.down_proj.weight"] = Piece(f"{prefix}down", (e,))
        return found

    def forward(self, x: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """X [T, D], weights and indices [T, k] -> weighted sums [T, D], summed in fp32.

        On a CPU each expert's rows are filled up to ``MIN_ROWS``, so that a row has the same bits
        whichever others its expert has.
        """
        slots, ends, size = self._layout(indices.flatten(), x.device)
        rows = x.new_zeros(size, x.shape[1])
        rows[slots] = x.repeat_interleave(indices.shape[1], 0)
        gate, up = F.grouped_mm(rows, self.gate_up.mT, offs=ends).chunk(2, -1)
        out = F.grouped_mm(self.act(gate) * up, self.down.mT, offs=ends)[slots]
        mixed = out.float().unflatten(0, indices.shape) * weights[..., None]
        return mixed.sum(1).to(x.dtype)

    def _layout(self, expert: Tensor, device: torch.device) -> tuple[Tensor, Tensor, int]:
        """Places of rows that are sorted by expert.

        Args:
            expert: of each row, [N].
            device: of the rows.

        Returns:
            the place of each row [N], where each expert's places end [E] in int32, and the number
            of places.
        """
        count = self.gate_up.shape[0]
        taken = torch.zeros(count, dtype=torch.long, device=device)
        taken = taken.scatter_add(0, expert, torch.ones_like(expert))
        room = taken
        if device.type == "cpu":
            room = torch.where(taken > 0, taken.clamp(min=MIN_ROWS), 0)
        ends = room.cumsum(0)
        order = expert.argsort(stable=True)
        # a row's place: its expert's first one, and how many rows of the expert come before it
        shift = (ends - room) - (taken.cumsum(0) - taken)
        slots = torch.empty_like(expert)
        slots[order] = torch.arange(len(expert), device=device) + shift[expert[order]]
        size = len(expert) if device.type != "cpu" else int(ends[-1])
        return slots, ends.int(), size
