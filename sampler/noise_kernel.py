"""The stationary noise kernel of XDLM (paper section 3) and its exact posterior.

Notation of the paper: N vocabulary size, m the mask id, k the share of uniform noise, mu = 1 - k;
alpha the share of signal that is left, beta = 1 - alpha; alpha_ts = alpha_t / alpha_s for s < t.
k = 0 is MDLM, k = 1 is UDLM, anything between is XDLM: one set of formulas serves all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ReverseMixture:
    """Transition probabilities of one reverse step (eq. 11): keep, model, uniform or mask.

    The token z is replaced with probability L = rate / (signal p_z + here), and then by the model's
    guess, a uniform id or the mask. All arguments broadcast to one shape.

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


@dataclass(frozen=True)
class NoiseKernel:
    """K = k/N J + mu M (eq. 7): a share k of uniform noise over all N ids, the rest masks.

    Attributes:
        mixing_ratio: k in [0, 1]; a tensor gives each position its own (broadcast to the ids).
        vocab_size: N, the mask included. Uniform noise falls on all N ids.
        mask_id: m, or None for a kernel without a mask (UDLM; needs k = 1).

    Raises:
        ValueError: k outside [0, 1], or masks asked for where there is no mask id.
    """

    mixing_ratio: float | Tensor
    vocab_size: int
    mask_id: int | None

    def __post_init__(self) -> None:
        k = self.mixing_ratio
        if isinstance(k, Tensor):  # one per position, from parameters that were checked
            return
        if not 0.0 <= k <= 1.0:
            raise ValueError(f"mixing_ratio must lie in [0, 1], got {k}")
        if self.mask_id is None and k != 1.0:
            raise ValueError("a kernel without a mask id needs mixing_ratio = 1")

    def _is_mask(self, e: Tensor) -> Tensor:
        return torch.zeros_like(e, dtype=torch.bool) if self.mask_id is None else e == self.mask_id

    def rate(self, e: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """r(e) = k/N + mu [e = m] (eq. 9) for ids e of any shape."""
        k, n = self.mixing_ratio, self.vocab_size
        return k / n + (1.0 - k) * self._is_mask(e).to(dtype)

    def f(self, alpha: Tensor | float, p_e: Tensor, e: Tensor) -> Tensor:
        """f_t(x, e) = alpha_t p_{x,e} + beta_t r(e) (eq. 10): the forward marginal at one id.

        Args:
            alpha: alpha_t, broadcastable to e.
            p_e: probability of e under x, same shape as e.
            e: ids.
        """
        return alpha * p_e + (1.0 - alpha) * self.rate(e, p_e.dtype)

    def suppress_mask(self, logits: Tensor) -> Tensor:
        """Logits [..., N] with the mask's entry at -inf: x_theta puts no mass on the mask."""
        if self.mask_id is None:
            return logits
        ids = torch.arange(self.vocab_size, device=logits.device)
        return logits.masked_fill(ids == self.mask_id, -torch.inf)

    def posterior(
        self,
        p: Float[Tensor, "*s N"],
        z: Int[Tensor, "*s"],
        alpha_s: Float[Tensor, "*s"],
        alpha_t: Float[Tensor, "*s"],
    ) -> Float[Tensor, "*s N"]:
        """q(z_s = . | z_t = z, x ~ p), eq. 11 written out over the vocabulary.

        The readable reference: samplers never build it (see ``ancestral``), tests compare with it.
        Where f_t(p, z) = 0 the state z is impossible under p; it is kept, which is the limit that
        MDLM prescribes for tokens that are already unmasked (k = 0).

        Args:
            p: model distribution [..., N].
            z: current ids [...].
            alpha_s, alpha_t: [...], with alpha_s >= alpha_t.

        Returns:
            probabilities [..., N].
        """
        ids = torch.arange(self.vocab_size, device=z.device).expand(p.shape)
        here = (ids == z[..., None]).to(p.dtype)
        alpha_s, alpha_t = alpha_s[..., None], alpha_t[..., None]
        alpha_ts = alpha_t / alpha_s
        f_s = self.f(alpha_s, p, ids)
        f_ts = alpha_ts * here + (1.0 - alpha_ts) * self.rate(z, p.dtype)[..., None]
        f_t = self.f(alpha_t, p.gather(-1, z[..., None]), z[..., None])
        q = f_s * f_ts / f_t
        if self.mixing_ratio == 0.0:  # a token that is there stays: eq. 16
            q = torch.where(self._is_mask(z)[..., None], q, here)
        return torch.where(f_t == 0, here, q)

    def mixture(self, z: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> ReverseMixture:
        """The posterior as a mixture: L = beta_ts r(z) / (alpha_t p_z + beta_t r(z)), and a token
        that leaves goes where the forward marginal at time s takes the model's guess.

        With k = 0 a token other than the mask has r(z) = 0 and never leaves, even if p_z = 0.

        Args:
            z: current ids.
            alpha_s, alpha_t: of the same shape.
        """
        rate = self.rate(z, alpha_t.dtype)
        return ReverseMixture(
            rate=(1.0 - alpha_t / alpha_s) * rate,
            signal=torch.where(self._is_mask(z), 0.0, alpha_t),
            here=(1.0 - alpha_t) * rate,
            to_model=alpha_s,
            to_uniform=(1.0 - alpha_s) * self.mixing_ratio,
        )

    def noise(self, x: Tensor, alpha: Tensor | float, u: Tensor, uniform_id: Tensor) -> Tensor:
        """Forward marginal q(z_t | x): keep below alpha, then a uniform id, else the mask.

        Args:
            x: clean ids.
            alpha: alpha_t, broadcastable to x.
            u: uniforms in [0, 1), one per id.
            uniform_id: ids drawn uniformly from all N, one per id.
        """
        moved = uniform_id
        if self.mask_id is not None:
            to_uniform = u < alpha + self.mixing_ratio * (1.0 - alpha)
            moved = torch.where(to_uniform, uniform_id, self.mask_id)
        return torch.where(u < alpha, x, moved)

    def prior(self, u: Tensor, uniform_id: Tensor) -> Tensor:
        """Draw from the stationary distribution: the mask below mu = 1 - k, else a uniform id.

        (The official code cuts u the other way round here than in the forward process; kept, so
        that the same random numbers give the same prior.)
        """
        if self.mask_id is None:
            return uniform_id
        return torch.where(u < 1.0 - self.mixing_ratio, self.mask_id, uniform_id)
