"""The LLaDA architecture, built natively from a checkpoint's ``config.json`` (model_type
``llada``).

A Llama-style transformer without a causal mask: RMSNorm, rotary positions, SwiGLU, no biases,
grouped-query heads where the config asks for them. Logits are not shifted: position i predicts
token i. Parameter names are those of the published checkpoints; note that ``ff_out`` names both a
block's down projection and the language-model head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention
from models.base import Rope, Transformer, check_positions, rotate
from models.errors import UnsupportedConfig

# Fields that change the forward pass, and the only value that is built here.
_REQUIRED = {
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "block_type": "llama",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "layer_norm_with_affine": True,
    "scale_logits": False,
    "input_emb_norm": False,
    "block_group_size": 1,
}

SIZES = (
    *("d_model", "n_layers", "n_heads", "n_kv_heads"),
    *("mlp_hidden_size", "vocab_size", "max_sequence_length"),
)
LARGEST = 2**24
"""No size of a network is larger; tables and loops are made of them before a weight is read."""


@dataclass(frozen=True)
class LLaDAConfig:
    """The fields of ``config.json`` that shape the network."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_hidden_size: int
    vocab_size: int
    mask_token_id: int
    eos_token_id: int
    max_sequence_length: int
    rope_theta: float = 500_000.0
    rms_norm_eps: float = 1e-5
    weight_tying: bool = False

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LLaDAConfig:
        """Read a ``config.json``.

        Raises:
            UnsupportedConfig: another architecture (LLaDA-MoE shares the model_type), or a field
            with a
                value that would need different arithmetic. The message names the field.
        """
        if raw.get("model_type") != "llada":
            raise UnsupportedConfig(f"model_type is {raw.get('model_type')!r}, expected 'llada'")
        if "num_experts" in raw or "d_model" not in raw:
            raise UnsupportedConfig("this is LLaDA-MoE (num_experts / hidden_size), not LLaDA")
        for field, value in _REQUIRED.items():
            if raw.get(field, value) != value:
                raise UnsupportedConfig(
                    f"{field} = {raw[field]!r} is not supported, only {value!r}"
                )
        try:
            heads = raw["n_heads"]
            kv_heads = raw.get("n_kv_heads")
            if kv_heads is None:
                kv_heads = 1 if raw.get("multi_query_attention") else heads
            config = cls(
                d_model=raw["d_model"],
                n_layers=raw["n_layers"],
                n_heads=heads,
                n_kv_heads=kv_heads,
                mlp_hidden_size=_mlp_hidden_size(raw),
                vocab_size=raw.get("embedding_size") or raw["vocab_size"],
                mask_token_id=raw["mask_token_id"],
                eos_token_id=raw["eos_token_id"],
                max_sequence_length=raw["max_sequence_length"],
                rope_theta=raw.get("rope_theta", cls.rope_theta),
                rms_norm_eps=raw.get("rms_norm_eps", cls.rms_norm_eps),
                weight_tying=raw.get("weight_tying", False),
            )
        except KeyError as missing:
            raise UnsupportedConfig(f"config.json lacks {missing}") from None
        config.check()
        return config

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises:
            UnsupportedConfig: naming the field.
        """
        for field in SIZES:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
                raise UnsupportedConfig(
                    f"{field} must be a positive integer up to {LARGEST}, got {value!r}"
                )
        for field in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, field)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 < value < 1e12
            ):
                raise UnsupportedConfig(f"{field} must be a positive number, got {value!r}")
        for field in ("mask_token_id", "eos_token_id"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UnsupportedConfig(f"{field} must be an id, got {value!r}")
        if not isinstance(self.weight_tying, bool):
            raise UnsupportedConfig(
                f"weight_tying must be true or false, got {self.weight_tying!r}"
            )
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise UnsupportedConfig("d_model must be an even multiple of n_heads")
        if self.n_heads % self.n_kv_heads:
            raise UnsupportedConfig("n_heads must be a multiple of n_kv_heads")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise UnsupportedConfig("mask_token_id lies outside the vocabulary")
        if not 0 <= self.eos_token_id < self.vocab_size:
            raise UnsupportedConfig("eos_token_id lies outside the vocabulary")
        check_positions("max_sequence_length", self.max_sequence_length, self.head_dim)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


def _mlp_hidden_size(raw: Mapping[str, Any]) -> Any:
    """What ``config.json`` says of it, or the product that it stands for."""
    if raw.get("mlp_hidden_size") is not None:
        return raw["mlp_hidden_size"]
    for field in ("mlp_ratio", "d_model"):
        value = raw[field]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise UnsupportedConfig(f"{field} must be a positive integer, got {value!r}")
    return raw["mlp_ratio"] * raw["d_model"]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in fp32, cast back before the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> same."""
        if x.is_cuda:  # the same in one kernel
            return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class Block(nn.Module):
    """h += Wo attn(RMS(h)); h += W_down(silu(W_gate y) * W_up y), y = RMS(h)."""

    def __init__(self, c: LLaDAConfig) -> None:
        super().__init__()
        kv = c.n_kv_heads * c.head_dim
        self.head_dim = c.head_dim
        self.attn_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.q_proj = nn.Linear(c.d_model, c.d_model, bias=False)
        self.k_proj = nn.Linear(c.d_model, kv, bias=False)
        self.v_proj = nn.Linear(c.d_model, kv, bias=False)
        self.attn_out = nn.Linear(c.d_model, c.d_model, bias=False)
        self.ff_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.ff_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(c.mlp_hidden_size, c.d_model, bias=False)

    def forward(
        self, h: Tensor, attention: Attention, cos: Tensor, sin: Tensor, rows: Tensor | None
    ) -> Tensor:
        """H [T, d_model] -> same, or [R, d_model] if only some rows are asked for."""
        y = self.attn_norm(h)
        q, k, v = (
            proj(y).unflatten(-1, (-1, self.head_dim))
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attention(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h = h + self.attn_out(mixed)
        y = self.ff_norm(h)
        gate, up = F.silu(self.ff_proj(y)), self.up_proj(y)
        # in place where no gradient needs the factors: one buffer less to walk through
        return h + self.ff_out(gate * up if torch.is_grad_enabled() else gate.mul_(up))


class LLaDA(Transformer):
    """A ``Denoiser``: ``trunk`` maps packed tokens to hidden states, ``head`` some rows to
    logits.
    """

    family = "llada"
    defaults: ClassVar = {"sampler": "topk", "mixing_ratio": 0.0, "noise_schedule": "llada"}

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(Rope(config.max_sequence_length, config.head_dim, config.rope_theta))
        self.config = config
        transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
            }
        )
        if not config.weight_tying:
            transformer["ff_out"] = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.model = nn.ModuleDict({"transformer": transformer})

    def hidden(
        self,
        tokens: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Tokens [T] laid out as ``attention`` says -> normalised hidden states of ``rows`` [R], or
        of all; [R or T, d_model]. Behind its attention the last block runs on those rows alone.
        """
        parts: Any = self.model["transformer"]
        h = parts["wte"](tokens)
        cos, sin = self.cos[attention.positions], self.sin[attention.positions]
        *blocks, last = parts["blocks"]
        for block in blocks:
            h = block(h, attention, cos, sin, None)
        return parts["ln_f"](last(h, attention, cos, sin, rows))

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, d_model] -> logits [R, vocab_size]."""
        parts: Any = self.model["transformer"]
        tied = self.config.weight_tying
        return F.linear(hidden, parts["wte"].weight if tied else parts["ff_out"].weight)
