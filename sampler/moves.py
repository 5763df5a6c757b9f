"""What a posterior allows each position in one step, as a mixture of few outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moves:
    """How one step may move each position: the token z leaves with probability
    L = rate / (signal p_z + here), and one that leaves takes the model's guess, a uniform id or the
    mask. All arguments broadcast to one shape.

    Attributes:
        rate: L's numerator; where it is 0 the token stays, even if its p_z is 0.
        signal: weight of p_z; 0 where L does not depend on the model.
        here: the rest of the denominator.
        to_model: probability of the model's guess, of a position that leaves.
        to_uniform: probability of a uniform id; what is left of 1 is the mask's.
    """

    rate: Float[Tensor, "*s"]
    signal: Float[Tensor, "*s"]
    here: Float[Tensor, "*s"]
    to_model: Float[Tensor, "*s"]
    to_uniform: Float[Tensor, "*s"]

    def leave(self, p_z: Tensor) -> Tensor:
        """L for the model's probability p_z of the token that is there (0 at masks)."""
        stays = self.rate == 0
        return torch.where(stays, 0.0, self.rate / (self.signal * p_z + self.here))

    @property
    def bound(self) -> Tensor:
        """U: no token leaves with a higher probability, whatever the model says."""
        return self.leave(torch.zeros_like(self.rate))
